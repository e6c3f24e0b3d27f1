"""Needles in a haystack: sentences that give a number or a uuid to a key, and a question for some.

With one needle in the noise, prefix and answer behind it:

    A special magic number is hidden within the following text. Make sure to memorize it. I will
    quiz you about the number afterwards.
    The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.
    One of the special magic numbers for calm-river is: 4817203.
    The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.
    What is the special magic number for calm-river mentioned in the provided text? The special
    magic number for calm-river mentioned in the provided text is [4817203]

All keys and all values of an item differ (in RULER they may repeat by chance).

Source: NVIDIA/RULER `niah.py`, `constants.py`, `synthetic.yaml`. The city's needle: Bae et al. 2025
(arXiv 2510.04800), whose sentence it is; the words of its question are ours.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

import numpy as np

from braidlm.data.ruler.haystack import Haystack
from braidlm.data.ruler.items import HiddenItem, Sizes
from braidlm.data.ruler.words import CITIES, Words

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
TEXT = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\nWhat are all the special magic "
    "{kind} for {query} mentioned in the provided text?"
)
PREFIX = " The special magic {kind} for {query} mentioned in the provided text are"
CITY_NEEDLE = "The special magic {key} number is: {value}."
CITY_TEXT = "<context>\n{context}\n</context>\n\nWhat is the special magic {query} number?"
CITY_PREFIX = " The special magic {query} number is:"
DEPTHS = np.round(np.linspace(0, 100, 40)) / 100
"""Where needles may stand in an essay, as RULER has it."""
SHORT = 4096
"""Tokens below which a text grows by smaller steps, so that it still fills its length."""


@dataclass(frozen=True)
class NeedleKind:
    """What is hidden where, and how much of it is asked."""

    haystack: Literal["noise", "essay", "needle"]
    keys: Literal["words", "uuids", "cities"] = "words"
    values: Literal["numbers", "uuids"] = "numbers"
    n_keys: int = 1
    n_values: int = 1
    """Values of each key."""
    n_queries: int = 1
    n_new: int = 128


KINDS = {
    "niah_single_1": NeedleKind("noise"),
    "niah_single_2": NeedleKind("essay"),
    "niah_single_3": NeedleKind("essay", values="uuids"),
    "niah_multikey_1": NeedleKind("essay", n_keys=4),
    "niah_multikey_2": NeedleKind("needle"),
    "niah_multikey_3": NeedleKind("needle", keys="uuids", values="uuids"),
    "niah_multivalue": NeedleKind("essay", n_values=4),
    "niah_multiquery": NeedleKind("essay", n_keys=4, n_queries=4),
    "niah_city": NeedleKind("essay", keys="cities", n_new=20),
}


class Needles:
    """Draws items of one kind.

    Args:
        kind: what is hidden and asked.
        words: for keys of words.
        haystack: for an essay.
        depth: where the asked needle stands, from 0 to 1; None: anywhere.
    """

    def __init__(
        self, kind: NeedleKind, words: Words, haystack: Haystack | None, depth: float | None = None
    ) -> None:
        self.kind, self._words, self._haystack, self._depth = kind, words, haystack, depth

    def sizes(self, length: int) -> Sizes:
        """Return how the text grows: words of an essay, lines of the rest."""
        is_short = length < SHORT
        if self.kind.haystack == "essay":
            step = 10 if is_short else 500
            return Sizes(step, step, length)
        n_needles = self.kind.n_keys * self.kind.n_values
        is_full = self.kind.haystack == "needle" and self.kind.keys == "words"
        most = self._words.n_pairs - n_needles if is_full else length
        step = 1 if is_short else 25
        return Sizes(max(n_needles, step), step, min(length, most))

    def draw(self, rng: np.random.Generator, size: int) -> HiddenItem:
        """Return an item whose haystack has `size` words or lines."""
        kind = self.kind
        n_filler = size if kind.haystack == "needle" else 0
        n_needles = kind.n_keys * kind.n_values
        keys = self._keys(rng, kind.n_keys + n_filler)
        values = _values(rng, kind.values, n_needles + n_filler)
        lines = self._lines(keys[kind.n_keys :], values[n_needles:], size)
        owners = [k for k in range(kind.n_keys) for _ in range(kind.n_values)]
        asked = rng.permutation(kind.n_keys)[: kind.n_queries].tolist()
        places = self._places(rng, len(lines), n_needles)
        if self._depth is not None:  # the asked needle takes this place, whatever the others have
            places[asked[0] * kind.n_values] = int(len(lines) * self._depth)
        needles = [
            (place, self._needle(keys[owner], value))
            for place, owner, value in zip(places, owners, values[:n_needles], strict=True)
        ]
        found = [k * kind.n_values + v for k in asked for v in range(kind.n_values)]
        return self._item(
            [keys[k] for k in asked],
            tuple(values[i] for i in found),
            self._context(lines, needles),
            tuple(places[i] / len(lines) for i in found),
        )

    def _item(
        self, keys: list[str], answers: tuple[str, ...], context: str, depths: tuple[float, ...]
    ) -> HiddenItem:
        text, prefix = templates(self.kind)
        query = ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]
        text = text.replace("{query}", query).replace("{context}", context)
        prefix = prefix.replace("{query}", query)
        return HiddenItem(text, prefix, answers, "all", self.kind.n_new, depths)

    def _context(self, lines: list[str], needles: list[tuple[int, str]]) -> str:
        """Return the text with each needle before the line of its number.

        In an essay an empty part between needles leaves its space, as in RULER.
        """
        is_essay, parts, at = self.kind.haystack == "essay", [], 0
        for place, needle in [*sorted(needles), (len(lines), None)]:
            parts += [" ".join(lines[at:place])] if is_essay else lines[at:place]
            parts += [] if needle is None else [needle]
            at = place
        return (" " if is_essay else "\n").join(parts)

    def _lines(self, keys: list[str], values: list[str], size: int) -> list[str]:
        if self.kind.haystack == "noise":
            return [NOISE] * size
        if self.kind.haystack == "needle":
            return [self._needle(key, value) for key, value in zip(keys, values, strict=True)]
        assert self._haystack is not None
        return self._haystack.sentences(size)

    def _places(self, rng: np.random.Generator, n_lines: int, n_needles: int) -> list[int]:
        """Return before which line each needle stands."""
        if self.kind.haystack == "essay":
            return [int(n_lines * depth) for depth in rng.choice(DEPTHS, n_needles, replace=False)]
        return rng.choice(n_lines, n_needles, replace=False).tolist()

    def _needle(self, key: str, value: str) -> str:
        needle = CITY_NEEDLE if self.kind.keys == "cities" else NEEDLE
        return needle.format(kind=self.kind.values, key=key, value=value)

    def _keys(self, rng: np.random.Generator, n: int) -> list[str]:
        if self.kind.keys == "uuids":
            return _uuids(rng, n)
        if self.kind.keys == "cities":
            return [CITIES[i] for i in rng.choice(len(CITIES), n, replace=False)]
        return [self._words.pair(i) for i in rng.choice(self._words.n_pairs, n, replace=False)]


def templates(kind: NeedleKind) -> tuple[str, str]:
    """Return text and prefix with {context} and {query}: for one answer in the singular."""
    if kind.keys == "cities":
        return CITY_TEXT, CITY_PREFIX
    if kind.n_queries * kind.n_values > 1:
        return TEXT.replace("{kind}", kind.values), PREFIX.replace("{kind}", kind.values)
    found = []
    for template in (TEXT, PREFIX):
        one = template.replace("Some", "A").replace("are all", "is").replace("are", "is")
        found.append(one.replace("{kind}", kind.values[:-1]))
    return found[0], found[1]


def _values(rng: np.random.Generator, kind: str, n: int) -> list[str]:
    """Return different numbers of seven digits, or uuids."""
    if kind == "uuids":
        return _uuids(rng, n)
    return [str(10**6 + i) for i in rng.choice(9 * 10**6, n, replace=False).tolist()]


def _uuids(rng: np.random.Generator, n: int) -> list[str]:
    return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)]
