"""Biographies: which forms a person is told in, in which order, and by which name.

Person p and attribute a have a drawn order of the forms; biography k takes the k-th of them:

    forms of (p, a)    17  3  8 30 ...       biography 0 tells a in form 17, biography 1 in form 3

so that no two biographies of a person share a form, and biography k is the same however many there
are. With shuffled sentences, biographies 1, 2, ... have another order than biography 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from braidlm.arch.biographies import N_FORMS, Telling
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.biographies.form import Sentence, naming, pronouns
from braidlm.data.biographies.world import STREAM, Half, Person, World
from braidlm.data.seeding import generator

_AT_ONCE = 1024
"""People whose forms are drawn together."""


class Biography(NamedTuple):
    """One document about one person."""

    person: Person
    number: int
    """Which of the person's, from 0."""
    sentences: tuple[Sentence, ...]
    """As they follow each other."""
    order: tuple[int, ...]
    """The attribute of each sentence."""

    @property
    def id(self) -> str:
        """No other biography of this world and half has it."""
        return f"person/{self.person.number}#{self.number}"

    @property
    def text(self) -> str:
        """The whole document."""
        return " ".join(sentence.text for sentence in self.sentences)

    def up_to(self, attribute: int) -> str:
        """Return the document up to where the answer of an attribute begins."""
        at = self.order.index(attribute)
        told = [sentence.text for sentence in self.sentences[:at]]
        return " ".join([*told, self.sentences[at].before]).rstrip()


class Teller:
    """Tells of the people of a half.

    Args:
        telling: the world and the forms.
        half: whom to tell of.
        n_people: how many; None: as many as are declared.

    Raises:
        InputError: as `World`.
    """

    def __init__(self, telling: Telling, half: Half = "train", n_people: int | None = None):
        self.telling = telling
        seed, n = telling.world_seed, n_people or telling.n_people
        self.world = World(n, seed, half, telling.work_city)
        self._keys = (STREAM[half], "biographies")
        self._forms = lru_cache(maxsize=4)(self._draw_forms)
        self._orders = lru_cache(maxsize=2 * N_FORMS)(self._draw_orders)
        self._names = lru_cache(maxsize=2 * N_FORMS)(self._draw_names)

    def forms(self, person: int) -> np.ndarray:
        """Return (attributes, n_forms): the drawn order of each attribute's forms."""
        block, at = divmod(person, _AT_ONCE)
        return self._forms(block)[at]

    def biography(self, person: int, number: int = 0) -> Biography:
        """Return biography 0, 1, ... below `n_forms` of a person."""
        block, at = divmod(person, _AT_ONCE)
        who, forms = self.world.person(person), self.forms(person)[:, number]
        order = tuple(self._orders(block, number)[at].tolist())
        is_named = self._names(block, number)[at]
        named, short = naming(who.name, who.is_female), pronouns(who.is_female)
        sentences = tuple(
            ATTRIBUTES[a].forms.told[forms[a]].told(named if by_name else short, who.answers[a])
            for a, by_name in zip(order, is_named, strict=True)
        )
        return Biography(who, number, sentences, order)

    def is_asked(self, share: float) -> np.ndarray:
        """Return (n_people,) bool: who is asked about in training; of a larger share, more."""
        rng = generator(self.telling.world_seed, *self._keys, "asked")
        return rng.random(self.world.n_people) < share

    def _draw_forms(self, block: int) -> np.ndarray:
        rng = self._generator("forms", block)
        drawn = rng.random((_AT_ONCE, len(ATTRIBUTES), N_FORMS))
        return drawn[:, :, : self.telling.n_forms].argsort(axis=2)

    def _draw_orders(self, block: int, number: int) -> np.ndarray:
        n = len(ATTRIBUTES)
        if self.telling.order == "fixed":
            return np.tile(np.arange(n), (_AT_ONCE, 1))
        drawn = self._generator("order", block, number).random((_AT_ONCE, n)).argsort(axis=1)
        if number > 0:
            same = (drawn == self._orders(block, 0)).all(axis=1)
            drawn[same] = np.roll(drawn[same], 1, axis=1)
        return drawn

    def _draw_names(self, block: int, number: int) -> np.ndarray:
        is_named = np.zeros((_AT_ONCE, len(ATTRIBUTES)), dtype=bool)
        if self.telling.naming == "drawn":
            is_named = self._generator("naming", block, number).random(is_named.shape) < 0.5
        is_named[:, 0] = True
        return is_named | (self.telling.naming == "always")

    def _generator(self, *keys: int | str) -> np.random.Generator:
        return generator(self.telling.world_seed, *self._keys, *keys)
