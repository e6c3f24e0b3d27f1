"""Phonebooks of which several names are asked at once, as text: prompts and answers.

Five entries, two names at once, one worked example; the answer is in brackets:

    Ann Bell: 5550142
    Tom Shaw: 8201377
    Eva Koch: 0043925
    Leo King: 6917710
    Ida Park: 3318846

    Tom Shaw, Ann Bell: 8201377, 5550142
    Eva Koch, Ida Park: [0043925, 3318846]

In the reversed order the lines "Tom Shaw, Ann Bell" and "Eva Koch, Ida Park", and an empty one,
stand before the book. Names and numbers are unique in a book and drawn as those of `phonebook`.

Source: Jelassi et al. 2024 (arXiv 2402.01032); the names are our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from braidlm.arch.phonebook import Order
from braidlm.arch.tasks import PhonebookKeysTask
from braidlm.data.phonebook import N_NAMES, draw_entries, longest_name
from braidlm.data.seeding import EVAL, TRAIN, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


class Kind(NamedTuple):
    """What is asked."""

    n_keys: int = 4
    """Names asked at once."""
    n_digits: int = 7
    """Digits of a number."""
    n_examples: int = 1
    """Worked examples, each of `n_keys` other names."""
    order: Order = "standard"
    """Whether the names stand before the book too (reversed)."""
    depth: float | None = None
    """Where the names that are asked stand in a row, from 0 to 1 of the book; None: anywhere."""

    @property
    def n_asked(self) -> int:
        """Entries that are looked up, in examples and query."""
        return self.n_keys * (self.n_examples + 1)

    @property
    def n_answer(self) -> int:
        """Tokens of an answer at most: a space, the digits and a comma of each number."""
        return self.n_keys * (self.n_digits + 2)


def kind_of(task: PhonebookKeysTask, depth: float | None) -> Kind:
    """Return what a task asks at one depth in percent."""
    share = None if depth is None else depth / 100
    return Kind(task.n_keys, task.n_digits, task.n_examples, task.order, share)


class MultiLookup(NamedTuple):
    """One item."""

    prompt: str
    """All that stands before the answer; it ends with the query's colon."""
    numbers: tuple[str, ...]
    """(n_keys,) the right ones, in the order of the names."""
    places: tuple[int, ...]
    """(n_keys,) of the query's entries in the book, from 0."""
    n_entries: int
    """Of the book."""

    @property
    def answer(self) -> str:
        """What follows the prompt, with the space before it."""
        return " " + ", ".join(self.numbers)


def draw(rng: np.random.Generator, length: int, kind: Kind, tokenizer: Tokenizer) -> MultiLookup:
    """Return an item of at most `length` tokens, with as many entries as fit.

    Args:
        rng: where the randomness comes from.
        length: tokens of bos, prompt and the longest answer, at most; see `check`.
        kind: what is asked.
        tokenizer: counts the tokens.

    Raises:
        InputError: fewer different entries than would fit, or a length that holds not even those
            that are asked.
    """
    room, n_most = length - 1 - kind.n_answer, min(N_NAMES, 10**kind.n_digits)
    n_drawn = min(n_most, kind.n_asked + max(room, 0) // 3 + 1)  # a line has 3 tokens at least
    names, numbers = draw_entries(rng, n_drawn, kind.n_digits)
    lines = [f"{name}: {number}\n" for name, number in zip(names, numbers, strict=True)]
    sizes = [len(ids) for ids in tokenizer.encode_batch(lines[kind.n_asked :])]
    smallest = _item(names[: kind.n_asked], numbers, np.arange(kind.n_asked), kind)
    left = room - len(tokenizer.encode(smallest.prompt))
    n = kind.n_asked + int(np.searchsorted(np.cumsum(sizes), left, side="right"))
    if n == n_drawn:
        raise InputError(
            f"length = {length}: only {n_most} entries of {kind.n_digits} digits differ, too few"
        )
    while left >= 0 and n >= kind.n_asked:
        item = _item(names[:n], numbers, _places(rng, n, kind), kind)
        if len(tokenizer.encode(item.prompt)) <= room:
            return item
        n -= 1  # a tokenizer that merges over line ends
    raise InputError(f"length = {length} is too short for {kind.n_asked} look-ups")


def check(length: int, kind: Kind, tokenizer: Tokenizer) -> None:
    """Refuse before the first item a length that the longest names would not fit into.

    Raises:
        InputError: naming the least length, or too few different numbers.
    """
    if kind.n_asked > (n_most := min(N_NAMES, 10**kind.n_digits)):
        raise InputError(
            f"n_keys = {kind.n_keys} with n_examples = {kind.n_examples}: must be at most {n_most} "
            f"look-ups, the number of different entries of {kind.n_digits} digits"
        )
    names, places = [longest_name(tokenizer)] * kind.n_asked, np.arange(kind.n_asked)
    bare = _item(names, [""] * kind.n_asked, places, kind).prompt
    n_numbers = kind.n_asked + kind.n_keys * kind.n_examples
    least = 1 + len(tokenizer.encode(bare)) + n_numbers * kind.n_digits + kind.n_answer
    if length < least:
        raise InputError(
            f"length = {length}: must be at least {least} tokens for {kind.n_asked} look-ups of "
            f"{kind.n_digits} digits in {kind.order} order"
        )


def pairs(
    length: int, kind: Kind, tokenizer: Tokenizer, seed: int = 0
) -> Iterator[tuple[str, str]]:
    """Yield prompts and answers without end for training; no evaluation draws from their stream.

    Args:
        length: tokens of bos, prompt and answer, at most.
        kind: what is asked.
        tokenizer: counts the tokens.
        seed: names the stream.

    Raises:
        InputError: as `check` and `draw`.
    """
    check(length, kind, tokenizer)
    for number in count():
        item = draw(generator(seed, TRAIN, "phonebook_keys", number), length, kind, tokenizer)
        yield item.prompt, item.answer


def eval_multi_lookups(
    n_items: int, length: int, kind: Kind, tokenizer: Tokenizer, seed: int = 0
) -> list[MultiLookup]:
    """Return items from a stream that no training seed reaches, the same ones for every run.

    Raises:
        InputError: as `check` and `draw`.
    """
    check(length, kind, tokenizer)
    where = "any" if kind.depth is None else f"{100 * kind.depth:g}"
    keys = ("phonebook_keys", length, *kind[:4], where)
    return [draw(generator(seed, EVAL, *keys, i), length, kind, tokenizer) for i in range(n_items)]


def _places(rng: np.random.Generator, n: int, kind: Kind) -> np.ndarray:
    """Return the places (n_asked,) of the entries that are looked up, the query's last."""
    if kind.depth is None:
        return rng.choice(n, size=kind.n_asked, replace=False)
    first = round(kind.depth * (n - kind.n_keys))
    row = first + rng.permutation(kind.n_keys)
    others = rng.choice(n - kind.n_keys, size=kind.n_asked - kind.n_keys, replace=False)
    return np.concatenate([others + kind.n_keys * (others >= first), row])


def _item(
    names: Sequence[str], numbers: Sequence[str], places: np.ndarray, kind: Kind
) -> MultiLookup:
    """Return the book of `names`, the first of which stand at `places` and are looked up."""
    lines = [f"{name}: {number}" for name, number in zip(names, numbers, strict=False)]
    book = np.empty(len(names), dtype=object)
    book[places] = lines[: kind.n_asked]
    is_other = np.ones(len(names), dtype=bool)
    is_other[places] = False
    book[is_other] = lines[kind.n_asked :]
    groups = [slice(i, i + kind.n_keys) for i in range(0, kind.n_asked, kind.n_keys)]
    asked = [", ".join(names[group]) for group in groups]
    answered = [f"{a}: {', '.join(numbers[g])}" for a, g in zip(asked[:-1], groups, strict=False)]
    first = [*asked, ""] if kind.order == "reversed" else []
    query = groups[-1]
    return MultiLookup(
        prompt="\n".join([*first, *book, "", *answered, f"{asked[-1]}:"]),
        numbers=tuple(numbers[query]),
        places=tuple(places[query].tolist()),
        n_entries=len(names),
    )
