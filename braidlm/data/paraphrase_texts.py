"""The texts of one half of a folder of paraphrases, each with all that paraphrases it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from braidlm.data.shards import PROMPT, UNIT_END, Split


class Span(NamedTuple):
    """Tokens start .. stop - 1 of a stored pair: bos, the text, its paraphrase, eos."""

    pair: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.stop - self.start

    def head(self, n_tokens: int) -> Span:
        """Return its first tokens, at most so many."""
        return self._replace(stop=min(self.stop, self.start + n_tokens))


class Texts:
    """Which stored pairs are of one text, and where in them text and paraphrase lie.

    Two pairs are of one text if their texts are the same, whatever they are called.

    Args:
        split: the stored pairs.
    """

    def __init__(self, split: Split):
        self.split = split
        n = len(split)
        self.n_text = np.zeros(n, dtype=np.int64)
        """(n_pairs,) tokens of the text of each pair."""
        numbers: dict[bytes, int] = {}
        found: list[list[int]] = []
        for pair in range(n):
            mask = split.read_mask(pair, 0, int(split.lengths[pair]))
            size = self.n_text[pair] = np.count_nonzero(mask & PROMPT)
            content = np.ascontiguousarray(split.read(pair, 1, 1 + int(size)))
            digest = hashlib.blake2b(content.tobytes(), digest_size=16).digest()
            number = numbers.setdefault(digest, len(found))
            if number == len(found):
                found.append([])
            found[number].append(pair)
        self.pairs = tuple(map(tuple, found))
        """Of each text, the pairs that are of it, in the folder's order."""
        self.number = {pair: text for text, pairs in enumerate(self.pairs) for pair in pairs}
        """Of each pair, the text that it is of."""
        self.n_paraphrase = split.lengths - self.n_text - 2
        """(n_pairs,) tokens of the paraphrase of each pair."""

    def __len__(self) -> int:
        return len(self.pairs)

    def text(self, number: int) -> Span:
        """Return where a text is stored: in the first pair of it, whichever is asked for."""
        pair = self.pairs[number][0]
        return Span(pair, 1, 1 + int(self.n_text[pair]))

    def paraphrase(self, pair: int) -> Span:
        """Return where the paraphrase of a pair is stored."""
        start = 1 + int(self.n_text[pair])
        return Span(pair, start, start + int(self.n_paraphrase[pair]))

    def longest(self) -> np.ndarray:
        """Return (n_texts,) the most tokens that each text or one of its paraphrases has."""
        most = np.maximum(self.n_text, self.n_paraphrase)
        return np.array([most[list(pairs)].max() for pairs in self.pairs], dtype=np.int64)

    def ends(self, span: Span) -> list[int]:
        """Return where the units (see `units_of`) of a span end, in tokens of the span."""
        marks = self.split.read_mask(*span) & UNIT_END
        ends = (np.flatnonzero(marks) + 1).tolist()
        return ends if ends and ends[-1] == span.length else [*ends, span.length]

    def read(self, span: Span) -> np.ndarray:
        """Return the tokens of a span, int64."""
        return self.split.read(*span).astype(np.int64)
