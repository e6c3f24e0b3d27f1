"""A study at its smallest: does everything that it needs work, before hours are spent on it?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from braidlm.arch.recipe import override, read_toml
from braidlm.arch.tasks import AnyTask
from braidlm.study.config import Arm, Base, StudyConfig

STEPS = 2
"""Updates of a run."""
ITEMS = 4
"""Items or documents of a task: as few as give an interval in the report."""

_TASKS: TypeAdapter[list[Any]] = TypeAdapter(list[AnyTask])
_Part = TypeVar("_Part", Arm, Base)


def rehearsed(config: StudyConfig, folder: Path) -> StudyConfig:
    """Return the study with one seed, two updates a run, and four items a task.

    Models, rows, batches and the lengths of questions stay, so that what is too large for the
    machine shows. Its name says what it is: no study goes on in its folder.

    Args:
        config: as it is declared.
        folder: where its recipes' paths start.

    Raises:
        InputError: a recipe that cannot be read.
    """
    return config.model_copy(
        update={
            "name": f"{config.name}-rehearsal",
            "seeds": config.seeds[:1],
            "require_matched": (),  # a base's two updates and its arm's are not one run's two
            "arms": tuple(_small(arm, config, folder) for arm in config.arms),
            "bases": tuple(b if b.init else _small(b, config, folder) for b in config.bases),
        }
    )


def _small(part: _Part, config: StudyConfig, folder: Path) -> _Part:
    """Add the overrides that make its runs short; they come last and so they count."""
    data = override(read_toml(config.path_of(part, folder)), config.declared(part))
    try:
        tasks = _TASKS.validate_python(data.get("tasks", []))
    except ValidationError:
        tasks = []  # the recipe as a whole is refused in a moment, in better words
    fewer = [
        f"tasks.{number}.{field}={ITEMS}"
        for number, task in enumerate(tasks)
        for field in ("n_items", "n_documents")
        if isinstance(getattr(task, field, None), int) and getattr(task, field) > ITEMS
    ]
    return part.model_copy(update={"set": (*part.set, f"train.steps={STEPS}", *fewer)})
