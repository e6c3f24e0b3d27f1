"""What is asked about people, and in which form; the answer is in brackets.

    recited        Ann Ida Bell was born on 14 March 1957. She hails from [Elmford]
    told           Ann Ida Bell hails from [Elmford]
    others         Ann Ida Bell is a native of [Elmford]              as others were told of
    new            Ann Ida Bell first saw the light of day in [Elmford]
    question       Question: Where was Ann Ida Bell born?
                   Answer: [Elmford]
    new_question   Question: Which town does Ann Ida Bell come from?
                   Answer: [Elmford]

A form is drawn for each person, attribute and kind; a sentence that names the person only behind
the answer cannot be asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from braidlm.arch.tasks.biographies import AskedForm
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.biographies.form import naming, question
from braidlm.data.biographies.told import Teller
from braidlm.data.biographies.world import Person
from braidlm.data.seeding import EVAL, generator


class Asked(NamedTuple):
    """One fact asked in one form."""

    person: Person
    attribute: str
    form: AskedForm
    prompt: str
    """Up to where the answer begins, without the space before it."""
    answer: str


class Asker:
    """Asks about the people of a teller.

    Args:
        teller: tells of them.
        n_own: biographies of a person that count as the person's own telling: the first ones.
        n_used: biographies of a person that are used at all; "others" is asked in none of them.
    """

    def __init__(self, teller: Teller, n_own: int, n_used: int):
        self.teller, self.n_own, self.n_used = teller, n_own, n_used

    def asked(self, number: int, forms: Sequence[AskedForm]) -> Iterator[Asked]:
        """Yield every fact of a person in every form in which it can be asked."""
        person = self.teller.world.person(number)
        for attribute in range(len(ATTRIBUTES)):
            for form in forms:
                keys = (EVAL, "biographies", self.teller.world.half, number, attribute, form)
                rng = generator(self.teller.telling.world_seed, *keys)
                if prompt := self._prompt(person, attribute, form, rng):
                    name, answer = ATTRIBUTES[attribute].name, person.answers[attribute]
                    yield Asked(person, name, form, prompt, answer)

    def _prompt(
        self, person: Person, attribute: int, form: AskedForm, rng: np.random.Generator
    ) -> str | None:
        forms = ATTRIBUTES[attribute].forms
        words = naming(person.name, person.is_female)
        if form == "recited":
            told = self.teller.biography(person.number, int(rng.integers(self.n_own)))
            before = told.up_to(attribute)
            return before if person.name in before else None
        if form in ("question", "new_question"):
            texts = forms.asked if form == "question" else forms.newly_asked
            return question(texts[rng.integers(len(texts))], words)
        pool = forms.new
        if form != "new":
            drawn = self.teller.forms(person.number)[attribute]
            numbers = drawn[: self.n_own] if form == "told" else drawn[self.n_used :]
            pool = [forms.told[i] for i in numbers if forms.told[i].is_askable]
        if not pool:
            return None
        return pool[rng.integers(len(pool))].before.format_map(words).rstrip()
