"""A source's documents, made in memory instead of read from disk.

Every biography is a document, and so is every question with its answer, about the share of people
who are asked about in training:

    Question: Where was Ann Ida Bell born?
    Answer: Elmford
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from braidlm.arch.biographies import BiographiesSource
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.biographies.form import naming, question
from braidlm.data.biographies.told import Teller
from braidlm.data.seeding import TRAIN, generator
from braidlm.data.tokenizer import Tokenizer

_AT_ONCE = 1024
"""Documents that are encoded together."""


class Told(NamedTuple):
    """One document of a source."""

    id: str
    text: str


class MemorySplit:
    """Documents that are held in memory, with what is read of `braidlm.data.shards.Split`."""

    def __init__(self, documents: Iterable[Told], tokenizer: Tokenizer):
        self.ids: list[str] = []
        """Which document it is."""
        self.n_bytes = 0
        """UTF-8 bytes of all texts."""
        parts: list[np.ndarray] = []
        todo = iter(documents)
        while batch := list(islice(todo, _AT_ONCE)):
            self.ids += [document.id for document in batch]
            self.n_bytes += sum(len(document.text.encode()) for document in batch)
            for ids in tokenizer.encode_batch([document.text for document in batch]):
                parts.append(np.concatenate([[tokenizer.bos_id], ids, [tokenizer.eos_id]]))
        self.lengths = np.array([len(part) for part in parts], dtype=np.int64)
        """(n_docs,) tokens of each document, bos and eos included."""
        self._tokens = np.concatenate(parts).astype(np.uint32)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> dict[str, int]:
        """How many documents, tokens and bytes there are."""
        n_tokens = len(self._tokens)
        return {"documents": len(self), "tokens": n_tokens, "bytes": self.n_bytes}

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        """Return tokens start..stop-1 of a document."""
        first = int(self._starts[document])
        return self._tokens[first + start : first + stop]


def documents(source: BiographiesSource) -> Iterator[Told]:
    """Yield a source's documents: each person's biographies, then the questions about that person.

    Raises:
        InputError: as `Teller`.
    """
    teller = Teller(source)
    is_asked = teller.is_asked(source.questions)
    for person in range(source.n_people):
        for number in range(source.n_biographies):
            told = teller.biography(person, number)
            yield Told(told.id, told.text)
        if is_asked[person]:
            yield from _answered(teller, person)


def _answered(teller: Teller, number: int) -> Iterator[Told]:
    """Yield one question of training about each fact of a person, with its answer."""
    person = teller.world.person(number)
    words = naming(person.name, person.is_female)
    rng = generator(teller.telling.world_seed, TRAIN, "biographies", "question", number)
    for attribute, answer in zip(ATTRIBUTES, person.answers, strict=True):
        asked = attribute.forms.asked
        text = question(asked[rng.integers(len(asked))], words)
        yield Told(f"person/{number}/{attribute.name}", f"{text} {answer}")
