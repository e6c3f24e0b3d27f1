"""Loss by position in long documents, also far beyond the trained length.

One window of 4 tokens of the text "Hi all", bytes as tokens:

    input     <bos> H  i  _
    target    H     i  _  a
    position  1     2  3  4      tokens of context, bos included

Documents that do not fill the longest window are left out: every position is measured on the same
ones, so that the line shows what context is worth and not which documents are long. A window that
is longer than memory allows is fed in pieces, and the state is carried.

A character's bytes count where its last token stands. Standard errors are over documents, by the
bootstrap: a document is drawn with all its windows and positions, so that the error of a
difference between positions is right too. beyond: loss at positions beyond the trained length minus
loss in its second half, of the same documents; below 0 the context is still of use.

Source: Bae et al. 2025 (arXiv 2510.04800), section on long contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.sources import TextSource
from braidlm.arch.tasks import LongTextTask
from braidlm.data.corpora import read_corpus
from braidlm.data.inspection import show_tokens
from braidlm.data.prepare import held_out_documents
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.carried import losses_in_pieces
from braidlm.tasks.scoring import check_vocabulary
from braidlm.tasks.stats import Estimate, bootstrap, exponential, known
from braidlm.tasks.work import Column, Row, digest, slices

FIRST_BIN = 64
"""Tokens of the first of the bins that double."""
SHOWN_TOKENS = 48


class Window(NamedTuple):
    """A part of a document that is read by itself."""

    document: str
    number: int
    tokens: np.ndarray
    """(L + 1,) int64: bos and the text's tokens."""


class LongTextWork:
    """The windows of a task; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: documents that cannot be read, or of which none is long enough; a tokenizer
            that is larger than the model's vocabulary.
    """

    columns: Mapping[str, Column] = {
        "bits_per_byte": Column("bits", "n_bytes"),
        "nll_per_token": Column("nll", "n_tokens"),
    }

    def __init__(self, task: LongTextTask, tokenizer: Tokenizer, recipe: Recipe) -> None:
        check_vocabulary(tokenizer, recipe)
        self.task, self.tokenizer, self._recipe = task, tokenizer, recipe
        self.length, self.trained = max(task.lengths), recipe.data.seq_len
        try:
            self.windows, self.n_short = _windows(task, tokenizer, recipe)
        except InputError as error:
            raise InputError(f"task '{task.name}': {error}") from None
        self.edges = edges_of(task, self.trained)
        self.bytes = [bytes_by_bin(w.tokens[1:], self.edges, tokenizer) for w in self.windows]
        self.digest = digest(window.tokens for window in self.windows)
        self.batches = slices(len(self.windows), max(1, task.tokens_at_once // self.length))

    @property
    def identity(self) -> dict[str, Any]:
        """The same documents in other tokens are other contexts."""
        return {"tokenizer": self.tokenizer.fingerprint}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Read one batch of windows; see `Work.score`."""
        tokens = np.stack([self.windows[i].tokens for i in items])
        n_at_once, vocab_size = self.task.tokens_at_once, self._recipe.spec.vocab_size
        losses = losses_in_pieces(model, tokens, n_at_once, vocab_size)
        return [self._row(i, found) for i, found in zip(items, losses, strict=True)]

    def _row(self, number: int, losses: np.ndarray) -> Row:
        window, n_bytes = self.windows[number], self.bytes[number]
        return {
            "id": f"{window.document}/{window.number}",
            "cluster": window.document,
            "n_tokens": len(losses),
            "n_bytes": int(n_bytes.sum()),
            "nll": float(losses.sum()),
            "bits": float(losses.sum()) / math.log(2),
            "nll_by_bin": np.add.reduceat(losses, self.edges[:-1]).tolist(),
            "bytes_by_bin": n_bytes.tolist(),
        }

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        figures = summary(rows, self.edges, self.task.lengths, self.trained)
        return figures | {
            "n_windows": len(rows),
            "data": {"path": self.task.path or "held out", "n_too_short": self.n_short},
            "seq_len": self.length,
            "trained_seq_len": self.trained,
            "is_extrapolated": self.length > self.trained,
        }

    def example(self) -> str:
        """Draw the beginning of the first window, with what is predicted from what."""
        first = self.windows[0]
        tokens = first.tokens[: min(SHOWN_TOKENS, self.length + 1)]
        context, target = (show_tokens(x, self.tokenizer) for x in (tokens[:-1], tokens[-1:]))
        return (
            f"document {first.document}: the first of {len(self.windows)} windows of {self.length} "
            f"tokens\n{context} -> {target!r}"
        )


def edges_of(task: LongTextTask, trained: int) -> np.ndarray:
    """Return the edges of the bins, from 0 to the longest length.

    Every length is an edge, and so are half and the whole of the trained one if it is exceeded.
    """
    longest = max(task.lengths)
    marks = {0, *task.lengths}
    if task.bins == "equal":
        marks |= set(range(0, longest, task.bin_width))
    else:
        marks |= {FIRST_BIN << i for i in range(longest.bit_length())}
    if longest > trained:
        marks |= {trained // 2, trained}
    return np.array(sorted(edge for edge in marks if edge <= longest))


def bytes_by_bin(tokens: np.ndarray, edges: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Return the UTF-8 bytes of the text's tokens (L,) in each bin."""
    # What ends within a character decodes to U+FFFD there.
    texts = [tokenizer.decode(tokens[:edge]).rstrip("\ufffd") for edge in edges]
    return np.diff([len(text.encode()) for text in texts])


def summary(
    rows: Sequence[Row], edges: np.ndarray, lengths: Sequence[int], trained: int
) -> dict[str, Any]:
    """Return metrics and tables of scored windows, errors by the bootstrap over documents.

    Args:
        rows: of all windows.
        edges: of the bins.
        lengths: edges, whose windows are reported apart.
        trained: the trained length, an edge too where the bins reach beyond it.
    """
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    longest = int(edges[-1])
    parts = [*spans, *((0, length) for length in lengths), (0, longest)]
    parts += [(trained, longest), (trained // 2, trained)] if longest > trained else []
    sums = _sums(rows, edges, parts)

    def figures(drawn: np.ndarray) -> np.ndarray:
        nll, tokens, n_bytes = sums[drawn].sum(0)
        loss = nll / tokens
        return np.stack([loss, nll / math.log(2) / n_bytes, loss - loss[-1]])

    n = len(sums)
    both = np.stack([figures(np.arange(n)), bootstrap(figures, n)], axis=-1)
    nll, bits, gap = ([Estimate(v, e, n) for v, e in found] for found in both.tolist())
    n_tokens, whole = sums[:, 1].sum(0).astype(int).tolist(), len(spans) + len(lengths)
    metrics = {
        "bits_per_byte": bits[whole].as_metric("bits per byte"),
        "nll_per_token": nll[whole].as_metric("nats per token"),
        "perplexity": exponential(nll[whole]).as_metric("per token"),
    }
    if longest > trained:
        metrics["beyond"] = gap[whole + 1].as_metric("nats per token")
    by_position = [
        {"start": a, "end": b, **_line(nll[i], bits[i]), "n": n_tokens[i], "n_documents": n}
        for i, (a, b) in enumerate(spans)
    ]
    by_length = [
        {"length": length, **_line(nll[i], bits[i]), "n": n}
        for i, length in enumerate(lengths, len(spans))
    ]
    primary = {key: metrics["bits_per_byte"][key] for key in ("value", "stderr", "n")}
    tables = {"by_position": by_position, "by_length": by_length}
    return {"metric": "bits_per_byte", **primary, "metrics": metrics, "tables": tables}


def _sums(rows: Sequence[Row], edges: np.ndarray, parts: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return loss, tokens and bytes (documents, 3, parts) of each document in each part."""
    documents = list(dict.fromkeys(row["cluster"] for row in rows))
    widths = np.diff(edges)
    by_bin = np.zeros((len(documents), 3, len(widths)))
    for row in rows:
        place = documents.index(row["cluster"])
        by_bin[place] += [row["nll_by_bin"], widths, row["bytes_by_bin"]]
    upto = np.concatenate([np.zeros((*by_bin.shape[:2], 1)), by_bin.cumsum(-1)], axis=-1)
    start, end = np.searchsorted(edges, np.array(parts).T)
    return upto[..., end] - upto[..., start]


def _line(loss: Estimate, bits: Estimate) -> dict[str, Any]:
    return {
        "nll": known(loss.value),
        "stderr": known(loss.stderr),
        "bits_per_byte": known(bits.value),
        "bits_per_byte_stderr": known(bits.stderr),
    }


def _windows(task: LongTextTask, tokenizer: Tokenizer, recipe: Recipe) -> tuple[list[Window], int]:
    """Return the windows in the documents' order, and how many documents are too short for one."""
    length, lengths, found = max(task.lengths), [], []
    n_read = 0
    for name, tokens in _documents(task, tokenizer, recipe):
        lengths.append(len(tokens))
        n_windows = min(task.windows, len(tokens) // length)
        for i in range(n_windows):
            part = tokens[i * length : (i + 1) * length]
            found.append(Window(name, i, np.concatenate([[tokenizer.bos_id], part])))
        n_read += n_windows > 0
        if n_read == task.n_documents:
            break
    if not found:
        raise InputError(
            f"lengths = {list(task.lengths)}: none of {len(lengths)} documents has so many tokens; "
            f"the longest has {max(lengths, default=0)}"
        )
    return found, len(lengths) - n_read


def _documents(
    task: LongTextTask, tokenizer: Tokenizer, recipe: Recipe
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the text's tokens of each document."""
    if task.path:
        for document in read_corpus(task.corpus):
            yield document.id, tokenizer.encode(document.text)
        return
    sources = [s.name for s in recipe.data.sources if isinstance(s, TextSource)]
    if not sources:
        raise InputError("path = '': the recipe has no text source; name a file or a folder")
    for document in held_out_documents(recipe.data, sources[0], tokenizer=tokenizer):
        yield document.id, document.tokens[1:-1]
