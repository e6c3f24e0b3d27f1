"""Cut a document to a number of tokens: whole words, and what must stay stays inside."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from braidlm.data.tokenizer import Tokenizer

_WORD = re.compile(r"\s*\S+")
_JOINTS = 16
"""Tokens by which a whole may differ from its parts, for where they meet."""


class Words(NamedTuple):
    """A document in words, each with the spaces before it, and the tokens of each by itself."""

    text: str
    spans: list[tuple[int, int]]
    """Where each word begins and ends, in characters."""
    ends: list[int]
    """Tokens of the words before each one, and of all."""
    n_tokens: int
    """Of the whole text."""

    def part(self, start: int, stop: int) -> str:
        """Return words start .. stop - 1 without the spaces before them."""
        return self.text[self.spans[start][0] : self.spans[stop - 1][1]].lstrip() * (stop > start)

    def around(self, keep: tuple[int, int] | None) -> tuple[int, int]:
        """Return the first and the last word that `keep` touches; (0, -1) for None."""
        if keep is None:
            return 0, -1
        first = bisect.bisect_right([end for _, end in self.spans], keep[0])
        last = bisect.bisect_left([start for start, _ in self.spans], keep[1]) - 1
        return first, max(first, last)


def words_of(document: str, tokenizer: Tokenizer) -> Words:
    """Return a document in words, counted by a tokenizer."""
    spans = [match.span() for match in _WORD.finditer(document)]
    ids = tokenizer.encode_batch([document, *(document[a:b] for a, b in spans)])
    n_tokens, *sizes = map(len, ids)
    return Words(document, spans, [0, *accumulate(sizes)], n_tokens)


def cut_document(
    words: Words,
    keep: tuple[int, int] | None,
    n_tokens: int,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    prompt: Callable[[str], str] = str,
) -> str | None:
    """Return the longest run of whole words whose prompt has at most `n_tokens` tokens.

    A document that fits is returned as it is. Otherwise its beginning is left out up to a word
    that is drawn evenly among those that leave the part full and `keep` inside, so that what is
    asked for stands anywhere in the part.

    Args:
        words: the document, see `words_of`.
        keep: characters start .. stop - 1 that must stay, such as those of the answer; None: the
            document's beginning is kept.
        n_tokens: tokens at most of the whole prompt, bos not counted.
        tokenizer: counts them.
        rng: draws where the part begins.
        prompt: the whole prompt that is made of the part; it may hold it more than once.

    Returns:
        The part; None if even the words of `keep` do not fit.
    """

    def count(text: str) -> int:
        return len(tokenizer.encode(prompt(text)))

    around = count("")
    copies = max(1, len(prompt("\0\0").split("\0\0")) - 1)
    # The whole is only encoded again where it may fit.
    may_fit = around + copies * words.n_tokens <= n_tokens + _JOINTS * copies
    if may_fit and count(words.text) <= n_tokens:
        return words.text
    first, last = words.around(keep)
    room = (n_tokens - around) // copies
    start, stop = _window(words.ends, first, last, room, rng)
    while (over := count(part := words.part(start, stop)) - n_tokens) > 0:
        if stop > last + 1:
            least = words.ends[stop] - over // copies
            stop = max(last + 1, min(stop - 1, bisect.bisect_right(words.ends, least) - 1))
        elif start < first:
            start += 1
        else:
            return None
    return part


def _window(
    ends: list[int], first: int, last: int, room: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Return words start .. stop - 1 of about `room` tokens that hold first .. last."""
    lowest = bisect.bisect_left(ends, ends[last + 1] - room)
    full = bisect.bisect_right(ends, max(0, ends[-1] - room)) - 1
    low = min(lowest, first)
    start = int(rng.integers(low, max(low, min(first, full)) + 1))
    return start, max(last + 1, bisect.bisect_right(ends, ends[start] + room) - 1)
