"""Phonebooks: a list of names with numbers, worked examples, and one name to look up.

An item with four entries and one example (the task has two); the answer is in brackets:

    Ann Bell: 5550142         standard order: the names are asked after the book
    Tom Shaw: 8201377
    Eva Koch: 0043925
    Leo King: 6917710

    Tom Shaw: 8201377
    Leo King: [6917710]

In the reversed order the lines "Tom Shaw" and "Leo King", and an empty one, stand before the book.
Names and numbers are unique in a book; every digit is uniform, so a guess has 10 % of them right.

The text is encoded in pieces (a name with its colon, a number with its space, a line end), so that
an entry has the same tokens wherever it stands and a book's length is the sum of its parts.

Source: Jelassi et al. 2024 (arXiv 2402.01032) for the task; the names are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from braidlm.arch.phonebook import Order, PhonebookSource
from braidlm.data.names import FIRST_NAMES, LAST_NAMES
from braidlm.data.packing import IGNORE, Piece, Row
from braidlm.data.seeding import EVAL, TRAIN, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError

N_NAMES = len(FIRST_NAMES) * len(LAST_NAMES)
_ENTRIES_AT_ONCE = 32


class _Entry(NamedTuple):
    """One line of a book."""

    name: str
    number: str
    key: np.ndarray
    """Tokens of the name and its colon."""
    value: np.ndarray
    """Tokens of a space and the number."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """One item of T tokens, with n entries and k look-ups, the last of which is the query."""

    tokens: np.ndarray
    """(T,) int64: bos, the whole text, the line end after the last answer."""
    answer_starts: tuple[int, ...]
    """(k,) where the tokens of each answer begin: the space before its number."""
    answer_stops: tuple[int, ...]
    """(k,) one past the last token of each answer's number."""
    names: tuple[str, ...]
    """(n,) full names, in the book's order."""
    numbers: tuple[str, ...]
    """(n,) the number of each."""
    values: tuple[tuple[int, int], ...]
    """(n,) where the tokens of each number in the book begin (its space), and one past the last."""
    asked: tuple[int, ...]
    """(k,) places in the book that are looked up."""

    @property
    def prompt(self) -> np.ndarray:
        """Every token before the last answer."""
        return self.tokens[: self.answer_starts[-1]]

    @property
    def answer(self) -> np.ndarray:
        """The tokens of the last answer's number, with the space before it."""
        return self.tokens[self.answer_starts[-1] : self.answer_stops[-1]]

    @property
    def number(self) -> str:
        """The right answer."""
        return self.numbers[self.asked[-1]]


class Phonebook:
    """Draws items of one kind.

    Args:
        tokenizer: encodes the text.
        n_digits: digits of a number.
        n_examples: worked examples of an item.

    Raises:
        InputError: fewer numbers of `n_digits` digits than an item needs.
    """

    def __init__(self, tokenizer: Tokenizer, n_digits: int = 7, n_examples: int = 2):
        self.tokenizer, self.n_digits, self.n_asked = tokenizer, n_digits, n_examples + 1
        self.n_most = min(N_NAMES, 10**n_digits)
        if self.n_asked > self.n_most:
            raise InputError(
                f"n_examples = {n_examples}: must be below {self.n_most}, the number of "
                f"different entries with {n_digits} digits"
            )
        self._line_end = tokenizer.encode("\n")

    def check(self, length: int, order: Order) -> None:
        """Refuse before the first item what could not be drawn.

        Raises:
            InputError: a length into which the longest names would not fit, or that cannot be
                filled with different entries.
        """
        key = len(self.tokenizer.encode(f"{longest_name(self.tokenizer)}:"))
        end = len(self._line_end)
        entry = key + self.n_digits + 1 + end  # at worst the space and each digit are a token
        least = 1 + end + self.n_asked * 2 * entry
        least += (self.n_asked * (key + end) + end) * (order == "reversed")
        if length < least:
            raise InputError(
                f"length = {length} must be at least {least} tokens for {self.n_asked} look-ups "
                f"of {self.n_digits} digits in {order} order"
            )
        self.draw(generator(0, "check"), length, order)

    def draw(self, rng: np.random.Generator, length: int, order: Order) -> Lookup:
        """Return an item of at most `length` tokens into which the next entry would not fit.

        The places that are looked up are drawn evenly from the book's, without replacement.

        Raises:
            InputError: the entries that are looked up do not fit by themselves.
        """
        entries = self._entries(rng, length)
        asked = [next(entries) for _ in range(self.n_asked)]
        room = length - sum(map(len, self._parts(asked, asked, order)))
        if room < 0:
            raise InputError(f"length = {length} is too short by {-room} tokens for the look-ups")
        others = self._fill(entries, room)
        n = len(asked) + len(others)
        places = tuple(rng.choice(n, size=len(asked), replace=False).tolist())
        looked_up, rest = dict(zip(places, asked, strict=True)), iter(others)
        book = [looked_up[i] if i in looked_up else next(rest) for i in range(n)]
        return self._assemble(book, places, order)

    def _fill(self, entries: Iterator[_Entry], room: int) -> list[_Entry]:
        """Return entries up to the first that would not fit into `room` tokens."""
        found = []
        for entry in entries:
            room -= len(entry.key) + len(entry.value) + len(self._line_end)
            if room < 0:
                return found
            found.append(entry)
        raise InputError(
            f"there are only {self.n_most} different entries with {self.n_digits} digits: too few "
            "for the length"
        )

    def _entries(self, rng: np.random.Generator, length: int) -> Iterator[_Entry]:
        """Yield entries with different names and numbers, more than `length` tokens of them."""
        n = min(self.n_most, self.n_asked + length // 3 + 1)  # name, number, line end: 3 tokens
        names, numbers = draw_entries(rng, n, self.n_digits)
        for first in range(0, n, _ENTRIES_AT_ONCE):
            part = slice(first, first + _ENTRIES_AT_ONCE)
            keys = self.tokenizer.encode_batch([f"{name}:" for name in names[part]])
            values = self.tokenizer.encode_batch([f" {number}" for number in numbers[part]])
            yield from map(_Entry, names[part], numbers[part], keys, values)

    def _parts(self, book: list[_Entry], asked: list[_Entry], order: Order) -> list[np.ndarray]:
        """Return the tokens of an item in pieces; answers are the last but one of each three."""
        end = self._line_end
        parts = [np.array([self.tokenizer.bos_id])]
        if order == "reversed":
            for name in self.tokenizer.encode_batch([entry.name for entry in asked]):
                parts += [name, end]
            parts.append(end)
        for entry in book:
            parts += [entry.key, entry.value, end]
        parts.append(end)
        for entry in asked:
            parts += [entry.key, entry.value, end]
        return parts

    def _assemble(self, book: list[_Entry], places: tuple[int, ...], order: Order) -> Lookup:
        parts = self._parts(book, [book[place] for place in places], order)
        ends = np.cumsum([len(part) for part in parts])
        answers = range(len(parts) - 3 * self.n_asked + 1, len(parts), 3)
        first = len(parts) - 3 * (len(book) + self.n_asked) - 1  # the book, a line end, the names
        values = range(first + 1, first + 3 * len(book), 3)
        return Lookup(
            tokens=np.concatenate(parts),
            answer_starts=tuple(int(ends[i - 1]) for i in answers),
            answer_stops=tuple(int(ends[i]) for i in answers),
            names=tuple(entry.name for entry in book),
            numbers=tuple(entry.number for entry in book),
            values=tuple((int(ends[i - 1]), int(ends[i])) for i in values),
            asked=places,
        )


class PhonebookStream:
    """Rows of look-ups, as many whole items in a row as fit; each is a document by itself.

    Raises:
        InputError: an item that is longer than a row, or as `Phonebook.check`.
    """

    def __init__(self, source: PhonebookSource, tokenizer: Tokenizer, seq_len: int, seed: int):
        self.source, self.tokenizer = source, tokenizer
        self.vocab_size = tokenizer.vocab_size
        self._seq_len, self._seed = seq_len, seed
        self._book = Phonebook(tokenizer, source.n_digits, source.n_examples)
        for length in source.lengths:
            if length > seq_len:
                raise InputError(
                    f"source '{source.name}': length = {length} is longer than "
                    f"seq_len = {seq_len}, and an item is never cut"
                )
            for order in source.orders:
                self._book.check(length, order)

    def row(self, number: int) -> Row:
        """Return a row; it depends on its number alone."""
        rng = generator(self._seed, TRAIN, self.source.name, number)
        tokens = np.full(self._seq_len, self.tokenizer.pad_id, dtype=np.int64)
        targets = np.full(self._seq_len, IGNORE, dtype=np.int64)
        pieces: list[Piece] = []
        at = 0
        while True:
            length = self.source.lengths[rng.integers(len(self.source.lengths))]
            order = self.source.orders[rng.integers(len(self.source.orders))]
            if length > self._seq_len - at:
                return Row(tokens, targets, tuple(pieces))
            item = self._book.draw(rng, length, order)
            stop = at + len(item.tokens)
            tokens[at:stop] = item.tokens
            is_all = self.source.loss == "all"
            targets[at : stop - 1] = item.tokens[1:] if is_all else answer_targets(item)
            # Items are counted within a row, so that a row needs none of the rows before it.
            pieces.append(Piece(number * self._seq_len + len(pieces), 0, len(item.tokens)))
            at = stop


def answer_targets(item: Lookup) -> np.ndarray:
    """Return (T - 1,) targets: every answer and the line end after it."""
    targets = np.full(len(item.tokens) - 1, IGNORE, dtype=np.int64)
    n_end = len(item.tokens) - item.answer_stops[-1]
    for start, stop in zip(item.answer_starts, item.answer_stops, strict=True):
        targets[start - 1 : stop + n_end - 1] = item.tokens[start : stop + n_end]
    return targets


def eval_lookups(
    book: Phonebook, n_items: int, *, length: int, order: Order, seed: int = 0
) -> list[Lookup]:
    """Return items from a stream that no training seed reaches, the same ones for every run.

    Args:
        book: the kind of items.
        n_items: how many.
        length: tokens of an item at most.
        order: of book and names.
        seed: of the evaluation.

    Raises:
        InputError: as `Phonebook.check`.
    """
    book.check(length, order)
    keys = ("phonebook", order, length, book.n_digits, book.n_asked)
    return [book.draw(generator(seed, EVAL, *keys, i), length, order) for i in range(n_items)]


def draw_entries(rng: np.random.Generator, n: int, n_digits: int) -> tuple[list[str], list[str]]:
    """Return n names and n numbers, each different from all others of its kind."""
    names = rng.choice(N_NAMES, size=n, replace=False).tolist()
    numbers = rng.choice(10**n_digits, size=n, replace=False).tolist()
    return [_name(i) for i in names], [str(i).zfill(n_digits) for i in numbers]


def longest_name(tokenizer: Tokenizer) -> str:
    """Return a name of as many tokens as any has, if those of first and last name add up."""
    names = [f"{first} {max(LAST_NAMES, key=len)}" for first in FIRST_NAMES]
    names += [f"{max(FIRST_NAMES, key=len)} {last}" for last in LAST_NAMES]
    sizes = [len(ids) for ids in tokenizer.encode_batch([f"{name}:" for name in names])]
    return names[int(np.argmax(sizes))]


def _name(number: int) -> str:
    first, last = divmod(number, len(LAST_NAMES))
    return f"{FIRST_NAMES[first]} {LAST_NAMES[last]}"
