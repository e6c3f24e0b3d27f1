"""Rows of texts and their paraphrases, or of controls, laid out in windows of a fixed length."""

from __future__ import annotations

from typing import Any

import numpy as np

from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.data.packing import IGNORE, Piece, Row
from braidlm.data.paraphrase_texts import Texts
from braidlm.data.paraphrase_windows import EDGES, Window, Windows
from braidlm.data.shards import ShardSet
from braidlm.data.token_counts import Counts
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


class ParaphraseStream:
    """The train half of a folder of paraphrases, in windows, as many as fit in a row.

    A window is one document: what stands second can attend to what stands first, and to nothing of
    another window. In the layout "separate" each text is a document.

    Raises:
        InputError: a window that is too short for its parts, texts that are too long for "refuse",
            or too few texts.
    """

    def __init__(
        self,
        shards: ShardSet,
        tokenizer: Tokenizer,
        source: ParaphraseSource,
        seq_len: int,
        seed: int,
    ):
        self.tokenizer, self.shards, self.source = tokenizer, shards, source
        self.vocab_size = tokenizer.vocab_size
        self._seq_len = seq_len
        self._edges = np.array([tokenizer.eos_id, tokenizer.bos_id])
        self._separator = tokenizer.encode(source.separator) if source.separator else self._edges
        self.share = _share(source, len(self._separator), seq_len)
        self.texts = Texts(shards.train)
        self._long = self.texts.longest() > self.share
        is_kept = ~self._long if source.too_long == "drop" else np.ones_like(self._long)
        kept = np.flatnonzero(is_kept)
        self._check(kept)
        self.windows = Windows(self.texts, kept, source, self.share, len(self._separator), seed)
        self._per_row = seq_len // source.length
        self._seen = np.zeros(int(shards.train.lengths.sum()), dtype=bool)
        self._starts = np.concatenate(([0], np.cumsum(shards.train.lengths)))
        self._counted, self._counts = 0, Counts(0, 0, 0)

    def row(self, number: int) -> Row:
        """Return a row: windows `number * per_row` and those after it."""
        tokens = np.full(self._seq_len, self.tokenizer.pad_id, dtype=np.int64)
        targets = np.full(self._seq_len, IGNORE, dtype=np.int64)
        pieces: list[Piece] = []
        length = self.source.length
        for i in range(self._per_row):
            window = self.windows.window(number * self._per_row + i)
            at = slice(i * length, (i + 1) * length)
            tokens[at] = self.tokens(window)
            documents = self.documents(window)
            pieces += documents
            targets[at] = self._targets(window, tokens[at], documents)
        return Row(tokens, targets, tuple(pieces))

    def tokens(self, window: Window) -> np.ndarray:
        """Return (length,) int64: bos, then the texts with what stands between them."""
        between = self._edges if window.is_separate else self._separator
        parts = [self._edges[1:]]
        for text in window.texts:
            parts += [*map(self.texts.read, text.spans), between]
        return np.concatenate(parts)[: self.source.length]

    def starts(self, window: Window) -> list[int]:
        """Return the column in the window of the first token of each text."""
        between = EDGES if window.is_separate else len(self._separator)
        sizes = [text.length + between for text in window.texts]
        return np.cumsum([1, *sizes])[:-1].tolist()

    def documents(self, window: Window) -> list[Piece]:
        """Return the documents of a window: itself, or each of its texts with bos and eos."""
        length = self.source.length
        if not window.is_separate:
            [original] = [text for text in window.texts if text.role == "original"]
            return [Piece(original.spans[0].pair, 0, length)]
        edges = [start - 1 for start in self.starts(window)]
        pairs = [text.spans[0].pair for text in window.texts]
        if (end := edges[-1] + window.texts[-1].length + EDGES) < length:
            edges, pairs = [*edges, end], [*pairs, pairs[-1]]  # a bos that nothing follows
        sizes = np.diff([*edges, length]).tolist()
        return [Piece(pair, 0, size) for pair, size in zip(pairs, sizes, strict=True)]

    def parts(self, row: int, start: int, stop: int) -> list[dict[str, Any]]:
        """Return the texts that lie in columns start .. stop - 1 of a row, from left to right.

        Returns:
            [{"role", "document" (the pair that the text is of), "start", "stop" (columns)}].
        """
        found, ids, length = [], self.shards.train.ids, self.source.length
        for i in range(start // length, -(-stop // length)):
            window = self.windows.window(row * self._per_row + i)
            for text, column in zip(window.texts, self.starts(window), strict=True):
                at = i * length + column
                if start <= at < stop:
                    place = {"start": at, "stop": at + text.length}
                    found.append({"role": text.role, "document": ids[text.spans[0].pair]} | place)
        return found

    def unique_tokens(self, n_rows: int) -> int:
        """Return the tokens of texts that rows 0 .. n_rows - 1 show at least once."""
        return self.counts(n_rows).unique

    def counts(self, n_rows: int) -> Counts:
        """Return the tokens of rows 0 .. n_rows - 1; more rows than before cost what is new alone.

        Unique are tokens of texts and paraphrases, each place in the folder once, and a text once
        however many paraphrases it has.
        """
        if n_rows < self._counted:
            self._counted, self._counts = 0, Counts(0, 0, 0)
            self._seen[:] = False
        new, loss = range(self._counted * self._per_row, n_rows * self._per_row), self._counts.loss
        for number in new:
            window = self.windows.window(number)
            for span in (span for text in window.texts for span in text.spans):
                start = self._starts[span.pair] + span.start
                self._seen[start : start + span.length] = True
            n_documents = len(self.documents(window))
            is_all = self.source.loss == "all"
            loss += self.source.length - n_documents if is_all else window.n_asked
        n_input = n_rows * self._per_row * self.source.length
        self._counted = n_rows
        self._counts = Counts(n_input, loss, int(self._seen.sum()) if new else self._counts.unique)
        return self._counts

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every text as an original; the last may begin the next epoch."""
        return -(-self.windows.n_per_epoch // self._per_row)

    def summary(self) -> dict[str, Any]:
        """Return what there is, and what of it is cut or left out.

        Returns:
            {"texts", "paraphrases" (of the train half), "length", "share" (tokens that a text has
            at most), "too_long": {"texts", "tokens" (of them and their paraphrases: those beyond
            the share, or all where they are left out), "policy"}, "padding" (tokens of a row)}.
        """
        pairs = [p for t in np.flatnonzero(self._long) for p in self.texts.pairs[t]]
        sizes = np.concatenate((self.texts.n_paraphrase[pairs], self._text_sizes()[self._long]))
        is_dropped = self.source.too_long == "drop"
        lost = sizes if is_dropped else np.maximum(0, sizes - self.share)
        return {
            "texts": len(self.texts),
            "paraphrases": len(self.shards.train),
            "share": self.share,
            "length": self.source.length,
            "too_long": {
                "texts": int(self._long.sum()),
                "tokens": int(lost.sum()),
                "policy": self.source.too_long,
            },
            "padding": self._seq_len - self._per_row * self.source.length,
        }

    def _text_sizes(self) -> np.ndarray:
        return np.array([self.texts.text(t).length for t in range(len(self.texts))], dtype=np.int64)

    def _targets(self, window: Window, tokens: np.ndarray, documents: list[Piece]) -> np.ndarray:
        """Return (length,) what follows each token in its document, -100 where it is not learnt."""
        targets = np.append(tokens[1:], IGNORE)
        targets[np.cumsum([piece.stop for piece in documents]) - 1] = IGNORE
        if self.source.loss == "all":
            return targets
        if window.asked_text is None:
            asked = np.flatnonzero(targets != IGNORE)[-window.n_asked :]
        else:
            first = self.starts(window)[window.asked_text] - 1
            asked = np.arange(first, first + window.n_asked)
        kept = np.full(len(targets), IGNORE, dtype=np.int64)
        kept[asked] = targets[asked]
        return kept

    def _check(self, kept: np.ndarray) -> None:
        name, source = f"source '{self.source.name}'", self.source
        long, n_texts = np.flatnonzero(self._long), len(self.texts)
        if source.too_long == "refuse" and len(long):
            first = self.shards.train.ids[self.texts.pairs[int(long[0])][0]]
            raise InputError(
                f"{name}: {len(long)} of {n_texts} texts, or their paraphrases, have more than "
                f"{self.share} tokens, their share of length = {source.length}, the first is "
                f'{first}: raise length, or set too_long to "cut" or "drop"'
            )
        needed = 1 + max(1, source.gap_documents)
        if len(kept) < needed:
            why = f" with gap_documents = {source.gap_documents}" if source.gap_documents else ""
            raise InputError(
                f"{name} needs {needed} texts or more{why}, and has {len(kept)} ({n_texts} in the "
                f"train half, held_out = {self.shards.meta['held_out']}; {len(long)} have more "
                f"than {self.share} tokens, their share of length = {source.length})"
            )


def _share(source: ParaphraseSource, n_separator: int, seq_len: int) -> int:
    """Return the tokens that each text of a window has at most."""
    name, n_separator = f"source '{source.name}'", max(EDGES, n_separator)
    if source.length > seq_len:
        raise InputError(
            f"{name}: length = {source.length} is longer than seq_len = {seq_len}, and a window is "
            "never cut"
        )
    if 0 < source.gap_tokens <= 2 * n_separator:
        raise InputError(
            f"{name}: gap_tokens = {source.gap_tokens} must be at least {2 * n_separator + 1}: two "
            "separators and a token"
        )
    n_texts = 2 + source.gap_documents
    around = 1 + (source.gap_tokens or (n_texts - 1) * n_separator)
    share = (source.length - around) // n_texts
    if share < 1:
        raise InputError(
            f"{name}: length = {source.length} is too short for {n_texts} texts and the {around} "
            "tokens around them"
        )
    return share
