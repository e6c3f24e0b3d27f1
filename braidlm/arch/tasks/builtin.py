"""Tasks that can be asked by name of any model that reads text, with their published settings."""

from __future__ import annotations

from typing import NamedTuple

from braidlm.arch.tasks import AnyTask, PhonebookTask, RecallTask


class Builtin(NamedTuple):
    """A task that no recipe has to declare."""

    task: AnyTask
    line: str
    """What it asks, in one line."""


BUILTIN: dict[str, Builtin] = {
    "squad": Builtin(
        RecallTask(dataset="squad"), "a passage of Wikipedia, then a sentence of it to complete"
    ),
    "fda": Builtin(RecallTask(dataset="fda", name="fda"), "a report, then a key to give its value"),
    "phonebook": Builtin(
        PhonebookTask(lengths=(512, 1024, 2048), orders=("standard", "reversed")),
        "a random phonebook, two examples, then a name to look up",
    ),
}


def builtin(name: str) -> list[AnyTask]:
    """Return the built-in tasks that a name, a kind or "<kind>-<name>" stands for; else none."""
    if name in BUILTIN:
        return [BUILTIN[name].task]
    tasks = [entry.task for entry in BUILTIN.values()]
    return [task for task in tasks if name in (task.kind, task.name, f"{task.kind}-{task.name}")]
