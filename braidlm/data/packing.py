"""Exact packing: documents laid end to end and cut into rows of equal length.

Every document is a run of tokens (bos, text, eos). The stream of all documents is cut every
`seq_len` tokens; row r reads one token beyond its end to know its last target, so that each pair
of neighbours inside a document is an (input, target) pair exactly once.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

IGNORE = -100

ReadTokens = Callable[[int, int, int], np.ndarray]
"""(document, start, stop) -> the document's tokens start..stop-1."""


class Piece(NamedTuple):
    """A part of one document inside one row."""

    document: int
    start: int
    stop: int


class Row(NamedTuple):
    """One packed row."""

    tokens: np.ndarray
    """(seq_len,) int64; the pad id after the last piece."""
    targets: np.ndarray
    """(seq_len,) int64; the token that follows inside the same document, else -100."""
    pieces: tuple[Piece, ...]
    """What the row holds, from left to right; the rest of the row is padding."""


class Packing:
    """Where each token of a document stream lies.

    Args:
        lengths: (n_docs,) tokens of each document.
        seq_len: tokens of a row.
        order: (n_docs,) the documents' order in the stream; by default 0, 1, 2, ...
    """

    def __init__(self, lengths: np.ndarray, seq_len: int, order: np.ndarray | None = None):
        lengths = np.asarray(lengths, dtype=np.int64)
        self.seq_len = seq_len
        self._order = np.arange(len(lengths)) if order is None else order
        self._starts = np.concatenate(([0], np.cumsum(lengths[self._order])))

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole stream."""
        return int(self._starts[-1])

    @property
    def n_rows(self) -> int:
        """Rows that the stream fills; the last one may be padded."""
        return -(-self.n_tokens // self.seq_len)

    def pieces(self, row: int) -> tuple[Piece, ...]:
        """Return the parts of documents that lie in a row, from left to right."""
        begin, end = row * self.seq_len, min((row + 1) * self.seq_len, self.n_tokens)
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        last = int(np.searchsorted(self._starts, end, side="left"))
        edges = self._starts[first : last + 1].tolist()
        documents = self._order[first:last].tolist()
        found = []
        for document, start, stop in zip(documents, edges[:-1], edges[1:], strict=True):
            if stop > start:
                found.append(Piece(document, max(begin, start) - start, min(end, stop) - start))
        return tuple(found)


class WholePacking:
    """Documents laid end to end in an order; one that does not fit into its row opens the next.

    Args:
        lengths: (n_docs,) tokens of each document, at most `seq_len`.
        seq_len: tokens of a row.
        order: the documents that are packed, in their order.
    """

    def __init__(self, lengths: np.ndarray, seq_len: int, order: np.ndarray):
        self._order = order
        ends = np.cumsum(np.asarray(lengths, dtype=np.int64)[order])
        self._firsts = [0]
        while (first := self._firsts[-1]) < len(order):
            begin = int(ends[first - 1]) if first else 0
            self._firsts.append(int(np.searchsorted(ends, begin + seq_len, side="right")))

    @property
    def n_rows(self) -> int:
        """Rows that the documents fill, each padded where the next document did not fit."""
        return len(self._firsts) - 1

    def documents(self, row: int) -> np.ndarray:
        """Return the documents of a row, from left to right."""
        return self._order[self._firsts[row] : self._firsts[row + 1]]


def fill_row(
    pieces: tuple[Piece, ...], lengths: np.ndarray, read: ReadTokens, seq_len: int, pad_id: int
) -> Row:
    """Return the row that `pieces` make.

    Args:
        pieces: from `Packing.pieces`.
        lengths: (n_docs,) tokens of each document.
        read: gives a document's tokens.
        seq_len: tokens of the row.
        pad_id: token at padding.
    """
    tokens = np.full(seq_len, pad_id, dtype=np.int64)
    targets = np.full(seq_len, IGNORE, dtype=np.int64)
    at = 0
    for document, start, stop in pieces:
        count, follows = stop - start, stop < lengths[document]
        text = read(document, start, stop + int(follows))
        tokens[at : at + count] = text[:count]
        targets[at : at + len(text) - 1] = text[1:]
        at += count
    return Row(tokens, targets, pieces)
