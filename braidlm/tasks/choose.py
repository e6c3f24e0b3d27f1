"""Which tasks are asked: those of the recipe or of another file, changed, chosen, cut short."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from braidlm.arch import Recipe
from braidlm.arch.config import nearest
from braidlm.arch.kept import within
from braidlm.arch.recipe import override, read_toml
from braidlm.arch.tasks import AnyTask, LMTask
from braidlm.errors import InputError
from braidlm.runs import Run


def with_tasks(
    run: Run, tasks_file: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()
) -> tuple[Recipe, list[str]]:
    """Return a run's recipe with more or with changed tasks; its model and data stay.

    Args:
        run: whose recipe it is.
        tasks_file: a TOML file of ``[[tasks]]`` tables that are added.
        overrides: such as ``tasks.recall.n_items=50``, applied after that.

    Returns:
        The recipe, and "<kind>-<name>" of every task that was added.

    Raises:
        InputError: a file that holds anything else, a change of anything else, or a wrong field.
    """
    for text in overrides:
        if not text.startswith("tasks."):
            raise InputError(f"--set {text}: a trained run's tasks can be changed, nothing else")
    config, where = run.config, str(run.path / "config.json")
    before = len(Recipe.from_dict(config, where).tasks)
    if tasks_file is not None:
        more = read_toml(Path(tasks_file))
        if set(more) != {"tasks"} or not isinstance(more["tasks"], list):
            raise InputError(f"{tasks_file}: must hold [[tasks]] tables and nothing else")
        config = config | {"tasks": [*config.get("tasks", []), *more["tasks"]]}
        where = f"{where} with {tasks_file}"
    # Read before it is changed: from then on every task has a name.
    whole = Recipe.from_dict(config, where).to_dict()
    recipe = within(Recipe.from_dict(override(whole, overrides)), run.path)
    return recipe, [f"{task.kind}-{task.name}" for task in recipe.tasks[before:]]


def choose_tasks(recipe: Recipe, names: Sequence[str] | None) -> list[AnyTask]:
    """Return the recipe's tasks that `names` names, by name, kind, or "<kind>-<name>"; None: all.

    Raises:
        InputError: a recipe without tasks, or a name that fits none.
    """
    if not recipe.tasks:
        raise InputError("the recipe declares no tasks: add a [[tasks]] table")
    if names is None:
        return list(recipe.tasks)
    allowed = ", ".join(f"{task.kind}-{task.name}" for task in recipe.tasks)
    if not names:
        raise InputError(f"no task is named; allowed: {allowed}")
    fits = {id(task): {task.kind, task.name, f"{task.kind}-{task.name}"} for task in recipe.tasks}
    for name in names:
        if not any(name in known for known in fits.values()):
            words = sorted(set().union(*fits.values()))
            raise InputError(
                f"task '{name}' is not in the recipe{nearest(name, words)}; allowed: {allowed}"
            )
    return [task for task in recipe.tasks if fits[id(task)] & set(names)]


def limited(task: AnyTask, limit: int | None) -> AnyTask:
    """Return the task with at most `limit` documents or items.

    Raises:
        InputError: a limit below 1.
    """
    if limit is None:
        return task
    if limit < 1:
        raise InputError(f"limit = {limit}: must be at least 1 document or item")
    field = "n_documents" if isinstance(task, LMTask) else "n_items"
    return task.model_copy(update={field: min(limit, getattr(task, field))})
