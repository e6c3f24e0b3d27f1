"""Which tasks are asked: of the recipe, of a file, built in; changed, chosen, cut short."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braidlm.arch import Recipe
from braidlm.arch.config import nearest
from braidlm.arch.kept import within
from braidlm.arch.recipe import override, read_toml
from braidlm.arch.tasks import AnyTask, LMTask, LongTextTask
from braidlm.arch.tasks.builtin import BUILTIN, builtin
from braidlm.errors import InputError
from braidlm.runs import Run


def with_tasks(
    run: Run,
    tasks_file: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> tuple[Recipe, list[str]]:
    """Return a run's recipe with more or with changed tasks; its model and data stay.

    Args:
        run: whose recipe it is.
        tasks_file: a TOML file of ``[[tasks]]`` tables that are added.
        overrides: such as ``tasks.recall.n_items=50``, applied after that.
        names: of tasks; those that neither recipe nor file declares and that are built in
            (`braidlm.arch.tasks.builtin`) are added too.

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
    declared = Recipe.from_dict(config, where)
    whole = declared.to_dict()
    whole["tasks"] = [*whole.get("tasks", []), *_built_in(declared, names or ())]
    recipe = within(Recipe.from_dict(override(whole, overrides)), run.path)
    return recipe, [stem_of(task) for task in recipe.tasks[before:]]


def _built_in(recipe: Recipe, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the built-in tasks that are named and not declared, each once, as plain data."""
    declared = set().union(*map(words_of, recipe.tasks))
    found = [task for name in names if name not in declared for task in builtin(name)]
    plain = {stem_of(task): task.model_dump(mode="json", exclude_none=True) for task in found}
    return list(plain.values())


def stem_of(task: AnyTask) -> str:
    """Return "<kind>-<name>", what a task's result is called."""
    return f"{task.kind}-{task.name}"


def words_of(task: AnyTask) -> set[str]:
    """Return what a task can be called by."""
    return {task.kind, task.name, stem_of(task)}


def choose_tasks(recipe: Recipe, names: Sequence[str] | None) -> list[AnyTask]:
    """Return the recipe's tasks that `names` names, by name, kind, or "<kind>-<name>"; None: all.

    A built-in task is also named by what the table calls it.

    Raises:
        InputError: a recipe without tasks, or a name that fits none.
    """
    if names is None and recipe.tasks:
        return list(recipe.tasks)
    allowed = ", ".join(map(stem_of, recipe.tasks)) or "none"
    others = f"allowed: {allowed}; built in: {', '.join(BUILTIN)}"
    if names is None:
        raise InputError(
            f"the recipe declares no tasks: add a [[tasks]] table, or name some; {others}"
        )
    if not names:
        raise InputError(f"no task is named; {others}")
    fits = [words_of(task) for task in recipe.tasks]
    meant = set(names)
    for name in names:
        stems = {stem_of(task) for task in builtin(name)}
        if not any(name in words or words & stems for words in fits):
            words = sorted(set(BUILTIN).union(*fits))
            raise InputError(f"task '{name}' is not in the recipe{nearest(name, words)}; {others}")
        if not any(name in words for words in fits):
            meant |= stems
    return [task for task, words in zip(recipe.tasks, fits, strict=True) if words & meant]


def with_lengths(tasks: Sequence[AnyTask], lengths: Sequence[int]) -> list[AnyTask]:
    """Return the tasks, those that have a field ``lengths`` with these.

    Raises:
        InputError: no task has the field, or a length that one does not allow.
    """
    if not lengths:
        return list(tasks)
    if not any("lengths" in type(task).model_fields for task in tasks):
        raise InputError(
            f"lengths = {list(lengths)}: none of {', '.join(map(stem_of, tasks))} has lengths"
        )
    return [_changed(task, lengths) for task in tasks]


def with_data(tasks: Sequence[AnyTask], folder: str | os.PathLike[str] | None) -> list[AnyTask]:
    """Return the tasks, those of real documents with their data in this folder; None: as they are.

    Raises:
        InputError: no such folder, or no task has data.
    """
    if folder is None:
        return list(tasks)
    if not Path(folder).is_dir():
        raise InputError(f"data {folder} must be a folder that exists")
    if not any("path" in type(task).model_fields for task in tasks):
        raise InputError(
            f"data {folder}: none of {', '.join(map(stem_of, tasks))} asks of real documents"
        )
    there = {"path": os.fspath(folder), "files": ()}
    return [
        task.model_copy(update={k: v for k, v in there.items() if k in type(task).model_fields})
        for task in tasks
    ]


def _changed(task: AnyTask, lengths: Sequence[int]) -> AnyTask:
    if "lengths" not in type(task).model_fields:
        return task
    fields = task.model_dump(mode="json") | {"lengths": list(lengths)}
    return type(task).of(fields, f"task '{task.name}'")


def limited(task: AnyTask, limit: int | None) -> AnyTask:
    """Return the task with at most `limit` documents or items.

    Raises:
        InputError: a limit below 1.
    """
    if limit is None:
        return task
    if limit < 1:
        raise InputError(f"limit = {limit}: must be at least 1 document or item")
    field = "n_documents" if isinstance(task, LMTask | LongTextTask) else "n_items"
    return task.model_copy(update={field: min(limit, getattr(task, field))})
