"""An item, and how large its text may be: prompt and answer have at most `length` tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError

Counter = Callable[[str], int]
"""Tokens of a prompt, the one that opens a document included."""


@dataclass(frozen=True)
class HiddenItem:
    """One question about a long text."""

    text: str
    """Everything before the answer's first words."""
    prefix: str
    """The answer's first words, which a model without instruction tuning is given too."""
    answers: tuple[str, ...]
    """What must be said; or, where one is enough, what may be."""
    needed: Literal["all", "any"]
    """Whether every answer counts for its share, or one of them is enough."""
    n_new: int
    """Tokens that are generated."""
    depths: tuple[float, ...] = ()
    """Where each answer stands in the text, from 0 to 1; empty where that has no meaning."""

    @property
    def prompt(self) -> str:
        """What is read before the answer."""
        return self.text + self.prefix


class Sizes(NamedTuple):
    """In what steps a text grows: least, least + step, ... at most `most`."""

    least: int
    step: int
    most: int


Draw = Callable[[int], HiddenItem]
"""The same question in a text of the given size."""


def count_with(tokenizer: Tokenizer) -> Counter:
    """Return the counter of a tokenizer."""
    return lambda text: 1 + len(tokenizer.encode(text))


def fill(
    draws: Sequence[Draw], sizes: Sizes, count: Counter, length: int, name: str
) -> list[HiddenItem]:
    """Return an item of each draw, every one as large as `length` allows.

    As in RULER the size is found once, for the first item, and an item that turns out too long is
    drawn again, a step smaller each time.

    Raises:
        InputError: not even the smallest text fits.
    """
    top = _largest(draws[0], sizes, count, length)
    return [
        _fitted(draw, range(top, sizes.least - 1, -sizes.step), count, length, name)
        for draw in draws
    ]


def excess(item: HiddenItem, count: Counter, length: int) -> int:
    """Return by how many tokens prompt and answer exceed `length`; at most 0 where they fit."""
    return count(item.prompt) + item.n_new - length


def _fitted(draw: Draw, sizes: range, count: Counter, length: int, name: str) -> HiddenItem:
    over = 0
    for size in sizes:
        item = draw(size)
        if (over := excess(item, count, length)) <= 0:
            return item
    raise InputError(
        f"length = {length}: too short for {name}, whose smallest item needs {length + over} tokens"
    )


def _largest(draw: Draw, sizes: Sizes, count: Counter, length: int) -> int:
    """Return the largest size whose item fits, or the least one; sizes are tried by doubling."""
    steps = max((sizes.most - sizes.least) // sizes.step, 0)

    def fits(step: int) -> bool:
        return excess(draw(sizes.least + step * sizes.step), count, length) <= 0

    low, high = 0, 1  # low fits or is 0, high does not or is beyond
    while high <= steps and fits(high):
        low, high = high, 2 * high
    high = min(high, steps + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return sizes.least + low * sizes.step
