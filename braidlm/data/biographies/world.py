"""People with facts, drawn at once for any number of them.

A name is first, middle and last, numbered f, m, l in their lists. Where (f + m + l) mod 8 is 0 the
name belongs to the held-out half, else to training: the halves share first, middle and last names
but no full name, whatever the seed and the number of people.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from braidlm.arch.biographies import MOST_PEOPLE, WorkCity
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.names import FIRST_NAMES, LAST_NAMES
from braidlm.data.seeding import EVAL, TRAIN, generator
from braidlm.errors import InputError

Half = Literal["train", "held_out"]

_EIGHTH = 8
_SIZES = len(FIRST_NAMES), len(FIRST_NAMES), len(LAST_NAMES)
_N_NAMES = int(np.prod(_SIZES))
STREAM: dict[Half, str] = {"train": TRAIN, "held_out": EVAL}
"""Of what is drawn for a half."""
MOST: dict[Half, int] = {"train": MOST_PEOPLE, "held_out": MOST_PEOPLE // 7}
"""People of each half at most: about half of its names, so that drawing stays quick."""


class Person(NamedTuple):
    """One person."""

    number: int
    """In the world, from 0."""
    name: str
    """First, middle and last; nobody else has it."""
    is_female: bool
    """Which pronouns are used."""
    answers: tuple[str, ...]
    """The fact of each of `ATTRIBUTES`."""


class World:
    """The people of one half.

    Args:
        n_people: how many; the first of many are the same as those of few.
        seed: which world.
        half: training's, or those that are never trained on.
        work_city: whether it is drawn or that of the employer.

    Raises:
        InputError: more people than `MOST`.
    """

    def __init__(
        self,
        n_people: int,
        seed: int = 0,
        half: Half = "train",
        work_city: WorkCity = "independent",
    ):
        if not 0 < n_people <= MOST[half]:
            raise InputError(f"n_people = {n_people}: must be from 1 to {MOST[half]} ({half})")
        self.n_people, self.seed = n_people, seed
        self.half: Half = half
        self.names = name_numbers(n_people, seed, half)
        """(n_people,) int64, all different."""
        self.is_female = self._draw("pronoun", 2) == 1
        """(n_people,) bool."""
        self.values = np.stack([self._draw(a.name, len(a.values)) for a in ATTRIBUTES], axis=1)
        """(n_people, attributes) int64: index into each attribute's values."""
        if work_city == "headquarters":
            firms = self.values[:, _column("employer")]
            self.values[:, _column("work_city")] = headquarters(seed)[firms]

    def __len__(self) -> int:
        return self.n_people

    def person(self, number: int) -> Person:
        """Return person 0, 1, 2, ..."""
        row = self.values[number].tolist()
        answers = tuple(a.values[value] for a, value in zip(ATTRIBUTES, row, strict=True))
        name = full_name(int(self.names[number]))
        return Person(number, name, bool(self.is_female[number]), answers)

    def _draw(self, what: str, n_values: int) -> np.ndarray:
        rng = generator(self.seed, STREAM[self.half], "biographies", what)
        return rng.integers(n_values, size=self.n_people)


def headquarters(seed: int) -> np.ndarray:
    """Return the town (n_employers,) of each employer in the worlds of a seed, in either half."""
    n_firms, n_towns = (len(ATTRIBUTES[_column(n)].values) for n in ("employer", "work_city"))
    return generator(seed, "biographies", "headquarters").integers(n_towns, size=n_firms)


def name_numbers(n: int, seed: int, half: Half) -> np.ndarray:
    """Return n different names of a half, (n,) int64; more of them begin with fewer."""
    rng = generator(seed, STREAM[half], "biographies", "name")
    found = np.zeros(0, dtype=np.int64)
    share = 1 / _EIGHTH if half == "held_out" else 1 - 1 / _EIGHTH
    while len(found) < n:
        drawn = rng.integers(_N_NAMES, size=int(1.2 * n / share) + 64)
        f, m, last = np.unravel_index(drawn, _SIZES)
        is_held_out = (f + m + last) % _EIGHTH == 0
        kept = drawn[(is_held_out == (half == "held_out")) & (f != m)]
        found = np.concatenate([found, kept])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return found[:n]


def full_name(number: int) -> str:
    """Return the name of a number below the number of all names."""
    f, m, last = (int(i) for i in np.unravel_index(number, _SIZES))
    return f"{FIRST_NAMES[f]} {FIRST_NAMES[m]} {LAST_NAMES[last]}"


def _column(name: str) -> int:
    return [attribute.name for attribute in ATTRIBUTES].index(name)
