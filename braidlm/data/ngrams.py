"""Hashes of every n-gram of a text, of words or of characters, without a loop over them.

Text is compared as Brown et al. 2020 (arXiv 2005.14165, appendix C) do: lower case, punctuation
taken as white space. A word is a run of ASCII letters and digits and of whatever is not ASCII,
but for its punctuation (U+0080-00BF, U+2000-207F, U+3000-303F).

With r(c) a random 64-bit number for each byte c, B odd, and all sums modulo 2^64,

    H_i = sum over j < i of r(c_j) B^j        hash of bytes i .. k - 1 = (H_k - H_i) B^-i

so that one cumulative sum gives the hash of any stretch of bytes (Karp and Rabin 1987).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

Unit = Literal["words", "characters"]

BLOCK_CHARS = 1 << 20
_OVERLAP_CHARS = 1 << 12
_SPACE = 0x20
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_IS_WORD = np.zeros(256, dtype=bool)
_IS_WORD[[*range(0x30, 0x3A), *range(0x61, 0x7B), *range(0x80, 0x100)]] = True
_RANDOM = np.random.Generator(np.random.PCG64(13)).integers(0, 1 << 64, 256, dtype=np.uint64)


class Grams(NamedTuple):
    """The n-grams of one text, from left to right."""

    hashes: np.ndarray
    """(n_grams,) uint64."""
    starts: np.ndarray
    """(n_grams,) int64: first byte of each in `text`."""
    stops: np.ndarray
    """(n_grams,) int64: one past its last byte."""
    text: bytes
    """The text as it is compared."""

    def spelled(self, gram: int) -> str:
        """Return an n-gram as it is compared."""
        return self.text[self.starts[gram] : self.stops[gram]].decode("utf-8", "replace").strip()


def blocks(text: str) -> Iterator[str]:
    """Yield a text in overlapping parts of about 1 Mi characters, cut at white space.

    An n-gram of less than 4 Ki characters lies in at least one part as a whole.
    """
    start = 0
    while len(text) - start > BLOCK_CHARS + _OVERLAP_CHARS:
        stop = text.rfind(" ", start + _OVERLAP_CHARS, start + BLOCK_CHARS)
        stop = start + BLOCK_CHARS if stop < 0 else stop
        yield text[start:stop]
        again = text.find(" ", stop - _OVERLAP_CHARS, stop)
        start = stop - _OVERLAP_CHARS if again < 0 else again
    yield text[start:]


def n_words(text: str) -> int:
    """Return how many words a text has."""
    plain = _plain(text, "words")
    return int(np.count_nonzero(plain == _SPACE))


def grams(text: str, n: int, unit: Unit = "words") -> Grams:
    """Return every n-gram of a text, none of one that is shorter.

    Args:
        text: at most a few million characters, see `blocks`.
        n: words, or bytes of the text without anything between words.
        unit: "words" or "characters".
    """
    plain = _plain(text, unit)
    if unit == "words":
        edges = np.concatenate(([0], np.flatnonzero(plain == _SPACE) + 1))
    else:
        edges = np.arange(len(plain) + 1)
    starts, stops = (edges[:-n], edges[n:]) if len(edges) > n else (edges[:0], edges[:0])
    return Grams(_hashes(plain, starts, stops), starts, stops, plain.tobytes())


def _hashes(plain: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    if not len(starts):
        return np.zeros(0, dtype=np.uint64)
    powers, inverse = _powers(1 << max(12, len(plain).bit_length()))
    sums = np.zeros(len(plain) + 1, dtype=np.uint64)
    np.cumsum(_RANDOM[plain] * powers[: len(plain)], out=sums[1:])
    return (sums[stops] - sums[starts]) * inverse[starts]


def _plain(text: str, unit: Unit) -> np.ndarray:
    """Return the bytes that are compared: words with a space behind each, or without."""
    raw = np.frombuffer(text.lower().encode("utf-8", "replace"), dtype=np.uint8)
    is_word = _IS_WORD[raw]
    if raw.size and raw.max() >= 0x80:
        is_word &= ~_is_punctuation(raw)
    if unit == "characters":
        return raw[is_word]
    # One byte after the last word too, so that every word has its space.
    is_word = np.append(is_word, False)
    kept = is_word.copy()
    kept[1:] |= is_word[:-1]
    plain = np.where(is_word, np.append(raw, np.uint8(_SPACE)), np.uint8(_SPACE))
    return plain[kept]


def _is_punctuation(raw: np.ndarray) -> np.ndarray:
    """Mark the bytes of U+0080-00BF, U+2000-207F and U+3000-303F."""
    found = np.zeros(raw.size, dtype=bool)
    pairs = np.flatnonzero(raw[:-1] == 0xC2)
    second, lead = raw[1:-1], raw[:-2]
    threes = np.flatnonzero(
        ((lead == 0xE2) & (second <= 0x81)) | ((lead == 0xE3) & (second == 0x80))
    )
    for offset in range(3):
        found[threes + offset] = True
    found[pairs] = found[pairs + 1] = True
    return found


@lru_cache(maxsize=2)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return B^i and B^-i modulo 2^64 for i < size."""
    found = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.ones(size, dtype=np.uint64)
        filled = 1
        while filled < size:  # doubling: the second half is the first times B^filled
            step = np.uint64(pow(base, filled, 1 << 64))
            powers[filled : 2 * filled] = powers[:filled] * step
            filled *= 2
        found.append(powers)
    return found[0], found[1]
