"""Cut a document to a number of tokens: whole words, and what must stay stays inside."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable
from itertools import accumulate

import numpy as np

from braidlm.data.tokenizer import Tokenizer

_WORD = re.compile(r"\s*\S+")


def cut_document(
    document: str,
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
        document: the text.
        keep: characters start .. stop - 1 that must stay, such as those of the answer; None: the
            document's beginning is kept.
        n_tokens: tokens at most of the whole prompt, bos not counted.
        tokenizer: counts them.
        rng: draws where the part begins.
        prompt: the whole prompt that is made of the part.

    Returns:
        The part; None if even the words of `keep` do not fit.
    """

    def n_over(text: str) -> int:
        return len(tokenizer.encode(prompt(text))) - n_tokens

    if n_over(document) <= 0:
        return document
    words = [match.span() for match in _WORD.finditer(document)]
    first, last = _words_of(words, keep)
    sizes = [len(ids) for ids in tokenizer.encode_batch([document[a:b] for a, b in words])]
    ends = [0, *accumulate(sizes)]
    # A prompt may hold the document more than once.
    copies = max(1, (n_over(document) - n_over("")) // max(ends[-1], 1))
    room = -n_over("") // copies
    start, stop = _window(ends, first, last, room, rng)
    while (over := n_over(_text(document, words, start, stop))) > 0:
        if stop > last + 1:
            stop = max(last + 1, stop - max(1, over // (copies * max(sizes))))
        elif start < first:
            start += 1
        else:
            return None
    return _text(document, words, start, stop)


def words_around(document: str, keep: tuple[int, int] | None) -> str:
    """Return the whole words that `keep` touches: the least that `cut_document` can leave."""
    words = [match.span() for match in _WORD.finditer(document)]
    first, last = _words_of(words, keep)
    return _text(document, words, first, last + 1)


def _words_of(words: list[tuple[int, int]], keep: tuple[int, int] | None) -> tuple[int, int]:
    """Return the first and the last word that must stay; (0, -1): none, from the beginning."""
    if keep is None:
        return 0, -1
    first = bisect.bisect_right([end for _, end in words], keep[0])
    last = bisect.bisect_left([start for start, _ in words], keep[1]) - 1
    return first, max(first, last)


def _window(
    ends: list[int], first: int, last: int, room: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Return words start .. stop - 1 of about `room` tokens that hold first .. last."""
    lowest = bisect.bisect_left(ends, ends[last + 1] - room)
    full = bisect.bisect_right(ends, max(0, ends[-1] - room)) - 1
    low = min(lowest, first)
    start = int(rng.integers(low, max(low, min(first, full)) + 1))
    return start, max(last + 1, bisect.bisect_right(ends, ends[start] + room) - 1)


def _text(document: str, words: list[tuple[int, int]], start: int, stop: int) -> str:
    return document[words[start][0] : words[stop - 1][1]].lstrip() if stop > start else ""
