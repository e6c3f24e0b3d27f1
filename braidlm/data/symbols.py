"""Items made of symbols instead of text, and what every generator of such items shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from braidlm.data.packing import IGNORE


class Alphabet(NamedTuple):
    """Symbols of one kind: ids first .. end - 1."""

    letter: str
    """How they are drawn: k3 is the fourth key."""
    first: int
    end: int


@dataclass(frozen=True, eq=False)
class SymbolItems:
    """n items of L tokens."""

    tokens: np.ndarray
    """(n, L) int64."""
    targets: np.ndarray
    """(n, L) int64: the answer at each place that is asked, -100 elsewhere."""
    classes: np.ndarray
    """(n, L) int64: an index of `class_names` at each place that is asked, -1 elsewhere."""
    class_names: tuple[str, ...]
    """What kinds of places there are."""
    alphabets: tuple[Alphabet, ...]
    """The kinds of symbols."""
    is_next_token: bool
    """Whether a target is the token that follows, so that every token may be learnt."""

    def shifted(self, token_offset: int) -> SymbolItems:
        """Return the items with every symbol moved up, into a model's vocabulary."""
        is_asked = self.targets != IGNORE
        return replace(
            self,
            tokens=self.tokens + token_offset,
            targets=np.where(is_asked, self.targets + token_offset, IGNORE),
            alphabets=tuple(
                Alphabet(a.letter, a.first + token_offset, a.end + token_offset)
                for a in self.alphabets
            ),
        )

    def with_every_token_learnt(self) -> SymbolItems:
        """Return the items with the next token as the target of every place but the last."""
        targets = np.full_like(self.tokens, IGNORE)
        targets[:, :-1] = self.tokens[:, 1:]
        return replace(self, targets=targets)


def symbol(token: int, alphabets: tuple[Alphabet, ...]) -> str:
    """Return how a token is drawn: the letter of its alphabet, and its number if there are more."""
    for letter, first, end in alphabets:
        if first <= token < end:
            return letter if end - first == 1 else f"{letter}{token - first}"
    return f"?{token}"


def draw_item(tokens: np.ndarray, targets: np.ndarray, alphabets: tuple[Alphabet, ...]) -> str:
    """Return one item (L,) in symbols, each target behind an arrow."""
    words = [symbol(token, alphabets) for token in tokens.tolist()]
    for at in np.flatnonzero(targets != IGNORE).tolist():
        words[at] += f"->{symbol(int(targets[at]), alphabets)}"
    return " ".join(words)


def distinct(rng: np.random.Generator, n: int, count: int, total: int) -> np.ndarray:
    """Return (n, count) symbols of 0 .. total - 1, distinct in each row, in uniform order."""
    if 4 * count > total:
        return np.argsort(rng.random((n, total)), axis=1)[:, :count]
    # Redrawing whatever repeats treats all symbols alike, so the distinct rows stay uniform.
    drawn = rng.integers(total, size=(n, count))
    rows = np.arange(n)
    while len(rows):
        repeats = shown_before(drawn[rows])
        touched = repeats.any(axis=1)
        rows, repeats = rows[touched], repeats[touched]
        row, column = np.nonzero(repeats)
        drawn[rows[row], column] = rng.integers(total, size=len(row))
    return drawn


def shown_before(values: np.ndarray) -> np.ndarray:
    """Mark each entry (n, T) that stands further left in its row too."""
    return first_places(values) < np.arange(values.shape[1])


def first_places(values: np.ndarray) -> np.ndarray:
    """Return where each entry (n, T) stands first in its row."""
    order = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    is_new = np.ones(values.shape, dtype=bool)
    is_new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    # Ranks are stable, so that the first of each run of equals is the leftmost of them.
    heads = np.maximum.accumulate(np.where(is_new, np.arange(values.shape[1]), 0), axis=1)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.take_along_axis(order, heads, axis=1), axis=1)
    return places
