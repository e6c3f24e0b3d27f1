"""Biographies as texts with paraphrases: the same facts in other forms and another order.

The text about a person is biography 0, its paraphrases are biographies 1, 2, ...: no two of them
tell a fact in the same form. `facts` says beside them what is true and how it can be asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from braidlm.arch.biographies import BiographiesMethod
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.biographies.form import naming, question
from braidlm.data.biographies.told import Teller
from braidlm.data.paraphrase.method import Draft, Passage

_NAME = "person/"


class BiographyPairs:
    """Tells of every person of a world several times.

    Raises:
        InputError: as `Teller`.
    """

    workers = 1
    batch_size = 256

    def __init__(self, config: BiographiesMethod, seed: int) -> None:
        self._config, self._teller = config, Teller(config.telling(seed))

    def passages(self) -> Iterator[Passage]:
        """Yield the first biography of each person."""
        for number in range(self._config.n_people):
            yield Passage(f"{_NAME}{number}", self._teller.biography(number).text)

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft]]:
        """Return the other biographies of each person."""
        return [self._others(int(passage.id.removeprefix(_NAME))) for passage in batch]

    def _others(self, number: int) -> list[Draft]:
        numbers = range(1, self._config.n_paraphrases + 1)
        return [Draft(self._teller.biography(number, k).text) for k in numbers]


def facts(config: BiographiesMethod, seed: int) -> Iterator[dict[str, Any]]:
    """Yield every fact: person (the text's id), name, attribute, answer, and how it can be asked.

    `sentences` are in forms that no text uses, up to where the answer begins; `questions` are all.
    """
    world = Teller(config.telling(seed)).world
    for number in range(len(world)):
        person = world.person(number)
        words = naming(person.name, person.is_female)
        for attribute, answer in zip(ATTRIBUTES, person.answers, strict=True):
            forms = attribute.forms
            yield {
                "person": f"{_NAME}{number}",
                "name": person.name,
                "attribute": attribute.name,
                "answer": answer,
                "sentences": [f.before.format_map(words).rstrip() for f in forms.new],
                "questions": [question(q, words) for q in (*forms.asked, *forms.newly_asked)],
            }
