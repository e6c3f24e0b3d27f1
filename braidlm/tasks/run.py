"""From a run directory to result files: load a checkpoint, run the tasks, write the results."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from braidlm import checkpoint as checkpoints
from braidlm.arch import Recipe
from braidlm.arch.experiment import LMTask, MQARTask
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.generate.mode import choose_dtype, inference
from braidlm.ops import dispatch
from braidlm.runs import Run
from braidlm.tasks.lm import describe_lm, run_lm
from braidlm.tasks.mqar import describe_mqar, run_mqar
from braidlm.tasks.scoring import Progress

Task = LMTask | MQARTask
TaskProgress = Callable[[str, int, int], None]
"""Called with ("<kind>-<name>", done, total)."""


def run_task(
    task_config: Task,
    model: nn.Module,
    tokenizer: Tokenizer,
    recipe: Recipe,
    *,
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask one task of a model, wherever its weights are.

    Args:
        task_config: what is asked.
        model: a `HybridLM`, or anything that is called like one; its mode is restored.
        tokenizer: of the recipe's data.
        recipe: gives the task's source and the model's declaration.
        dtype: "fp32", or "bf16" for matrix products under autocast.
        progress: told (done, total).

    Returns:
        The payload of a result file: metric, value, stderr, n, metrics, tables, and whether the
        contexts are longer than the trained ones.

    Raises:
        InputError: a source that does not fit the task.
    """
    with inference(model, dtype):
        if isinstance(task_config, LMTask):
            return run_lm(task_config, model, tokenizer, recipe, progress)
        return run_mqar(task_config, model, recipe, progress)


def describe(task: Task, recipe: Recipe, tokenizer: Tokenizer | None = None) -> str:
    """Return one example of a task, drawn for a person.

    Raises:
        InputError: a source that does not fit the task.
    """
    if isinstance(task, LMTask):
        return describe_lm(task, tokenizer or load_tokenizer(recipe.data.tokenizer), recipe)
    return describe_mqar(task, recipe)


def evaluate(
    run_dir: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    checkpoint: str | None = None,
    progress: TaskProgress | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Run a recipe's tasks on a run's checkpoint, and write ``results/<kind>-<name>.json``.

    Args:
        run_dir: the run directory.
        tasks: which ones, see `choose_tasks`; None: all.
        checkpoint: name of a folder in the run's ``checkpoints``, or None for the newest.
        progress: told how far each task is.
        device: "auto", "cpu" or "cuda"; None: the recipe's.
        dtype: "fp32" or "bf16"; None: fp32 on a CPU, as trained on a GPU.
        limit: documents or items at most. Such a quick look replaces no result: nothing is written.

    Returns:
        The result files' contents in the order of the recipe; with `limit` the measured part alone.

    Raises:
        InputError: no run, no such task or checkpoint, a damaged checkpoint, or a task that its
            source cannot serve.
        OSError: a result cannot be written.
    """
    run = _open(run_dir)
    recipe = Recipe.from_dict(run.config, str(run.path / "config.json"))
    chosen = [limited(task, limit) for task in choose_tasks(recipe, tasks)]
    folder = _checkpoint(run, checkpoint)
    place = choose_device(device or recipe.train.device)
    precision = choose_dtype(dtype, place, recipe.train.precision)
    model, stored = checkpoints.load_model(folder, place)
    if stored.spec != recipe.spec:
        raise InputError(
            f"{folder} holds a model of another spec ('{stored.spec.pattern}', d_model "
            f"{stored.spec.d_model}) than {run.path / 'config.json'} "
            f"('{recipe.spec.pattern}', d_model {recipe.spec.d_model})"
        )
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    step = checkpoints.read_manifest(folder)["step"]
    found = []
    for task in chosen:
        with _threads(recipe.train.threads):
            payload = _timed(task, model, tokenizer, recipe, precision, progress)
        payload |= {"step": step, "checkpoint": folder.name, "seed": recipe.seed}
        payload |= {"device": place.type, "dtype": precision}
        if limit is None:
            found.append(read_json(run.write_result(task.kind, task.name, payload)))
        else:
            found.append({"kind": task.kind, "name": task.name, **payload})
    return found


def choose_tasks(recipe: Recipe, names: Sequence[str] | None) -> list[Task]:
    """Return the recipe's tasks that `names` names, by name, kind, or "<kind>-<name>"; None: all.

    Raises:
        InputError: a recipe without tasks, or a name that fits none.
    """
    if not recipe.tasks:
        raise InputError("the recipe declares no tasks: add a [[tasks]] table")
    if names is None:
        return list(recipe.tasks)
    if not names:
        allowed = ", ".join(f"{task.kind}-{task.name}" for task in recipe.tasks)
        raise InputError(f"no task is named; allowed: {allowed}")
    fits = {id(task): {task.kind, task.name, f"{task.kind}-{task.name}"} for task in recipe.tasks}
    for name in names:
        if not any(name in known for known in fits.values()):
            allowed = ", ".join(f"{task.kind}-{task.name}" for task in recipe.tasks)
            raise InputError(f"task '{name}' is not in the recipe; allowed: {allowed}")
    return [task for task in recipe.tasks if fits[id(task)] & set(names)]


def limited(task: Task, limit: int | None) -> Task:
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


def _timed(
    task: Task,
    model: nn.Module,
    tokenizer: Tokenizer,
    recipe: Recipe,
    dtype: str,
    progress: TaskProgress | None,
) -> dict[str, Any]:
    """Run one task; add how long it took and which operators ran."""

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{task.kind}-{task.name}", done, total)

    dispatch.reset()
    began = time.perf_counter()
    payload = run_task(task, model, tokenizer, recipe, dtype=dtype, progress=tell)
    return payload | {"wall_sec": time.perf_counter() - began, "ops": dispatch.used()}


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    """Use so many CPU threads while inside; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _open(path: str | os.PathLike[str]) -> Run:
    if (Path(path) / checkpoints.MANIFEST).is_file():
        raise InputError(f"{path} is a checkpoint: give its run directory, and its name apart")
    return Run.open(path)


def _checkpoint(run: Run, name: str | None) -> Path:
    if name is None:
        return checkpoints.latest(run.path)
    folder = run.checkpoints_dir / name
    found = checkpoints.checkpoints(run.path)
    if folder not in found:
        known = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{run.path} has no checkpoint '{name}'; it has: {known}")
    return folder
