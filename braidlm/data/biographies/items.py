"""The items of a task about generated people: about whom, in which forms, behind what context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from braidlm.arch.biographies import BiographiesSource, Telling
from braidlm.arch.experiment import DataConfig
from braidlm.arch.tasks import BiographiesTask
from braidlm.arch.tasks.biographies import AskedForm
from braidlm.data.biographies.asked import Asked, Asker
from braidlm.data.biographies.folder import people_of, telling_of
from braidlm.data.biographies.told import Teller
from braidlm.data.seeding import EVAL, generator
from braidlm.errors import InputError

_SEEN: dict[AskedForm, str] = {
    "recited": "of this person",
    "told": "of this person",
    "others": "of other people",
    "question": "of other people",
}
"""Of whom training reads a form; of nobody the others."""


class Item(NamedTuple):
    """One fact to be asked."""

    asked: Asked
    context: str
    """The biographies before it; empty: it is asked out of the weights."""
    group: dict[str, int | str]
    """What is reported apart beside attribute and form."""


def items_of(task: BiographiesTask, data: DataConfig) -> list[Item]:
    """Return the items of a task.

    Raises:
        InputError: nothing says who was trained on, nobody is left to ask about, or a form in which
            nothing can be asked.
    """
    try:
        make = _from_weights if task.memory == "weights" else _in_context
        items = list(make(task, data))
        _check(task, items)
    except InputError as error:
        raise InputError(f"task '{task.name}': {error}") from None
    return items


def _from_weights(task: BiographiesTask, data: DataConfig) -> Iterator[Item]:
    told = _telling(task, data)
    if told is None:
        raise InputError(
            "memory = 'weights': nothing says who was trained on; the recipe must have a source of "
            "biographies, or the task a folder"
        )
    teller = Teller(told)
    n_own, has_questions = told.n_biographies, False
    if isinstance(told, BiographiesSource):
        is_open = ~teller.is_asked(told.questions)
        has_questions = told.questions > 0
    else:
        is_open = people_of(Path(task.folder), told.n_people)
        n_own = 1  # the original alone stands in every arm of a study
    if not is_open.any():
        raise InputError("nobody is left to ask about: training asks about everybody")
    asker = Asker(teller, n_own, told.n_biographies)
    for number in _some(np.flatnonzero(is_open), task.n_items, told.world_seed):
        for asked in asker.asked(number, task.forms):
            is_read = asked.form != "question" or has_questions
            seen = _SEEN.get(asked.form, "of nobody") if is_read else "of nobody"
            yield Item(asked, "", {"seen": seen})


def _in_context(task: BiographiesTask, data: DataConfig) -> Iterator[Item]:
    told = _telling(task, data) or Telling()
    teller = Teller(told, "held_out", task.n_items + max(task.n_biographies) - 1)
    asker = Asker(teller, 1, 1)
    for n in task.n_biographies:
        group: dict[str, int | str] = {"biographies": n} if len(task.n_biographies) > 1 else {}
        for number in range(task.n_items):
            rng = generator(told.world_seed, EVAL, "biographies", "place", n, number)
            others = task.n_items + np.arange(n - 1)
            people = np.insert(others, rng.integers(n), number).tolist()
            told_once = [teller.biography(person).text for person in people]
            context = "\n\n".join(told_once * task.reads)
            for asked in asker.asked(number, task.forms):
                yield Item(asked, context, group)


def _telling(task: BiographiesTask, data: DataConfig) -> Telling | None:
    """Return how the people of a task are told of, None where nothing says it."""
    if task.folder:
        return telling_of(Path(task.folder))
    sources = [s for s in data.sources if isinstance(s, BiographiesSource)]
    names = ", ".join(s.name for s in sources) or "none is declared"
    found = [s for s in sources if task.source in ("", s.name)]
    if task.source and not found:
        raise InputError(f"source = '{task.source}' is no source of biographies; allowed: {names}")
    if len(found) > 1:
        raise InputError(f"source = '': must name one of the sources of biographies: {names}")
    return found[0] if found else None


def _some(people: np.ndarray, n: int, seed: int) -> list[int]:
    """Return at most n of the people in their order; fewer are some of more."""
    rank = generator(seed, EVAL, "biographies", "people").random(int(people.max(initial=0)) + 1)
    return sorted(people[np.argsort(rank[people])][:n].tolist())


def _check(task: BiographiesTask, items: list[Item]) -> None:
    asked = {item.asked.form for item in items}
    for form in task.forms:
        if form not in asked:
            raise InputError(f"forms: '{form}': the biographies leave no such form to ask in")
