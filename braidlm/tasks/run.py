"""From a run directory to result files: load a checkpoint, run the tasks, write the results."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from braidlm import checkpoint as checkpoints
from braidlm.arch import Recipe
from braidlm.arch.experiment import LMTask, MQARTask
from braidlm.arch.phonebook import PhonebookTask
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.generate.mode import choose_dtype, inference
from braidlm.items import read_items
from braidlm.ops import dispatch
from braidlm.provenance import code_version
from braidlm.runs import Run
from braidlm.tasks.choose import Task, choose_tasks, limited, with_tasks
from braidlm.tasks.lm import LMWork, describe_lm
from braidlm.tasks.mqar import MQARWork, describe_mqar
from braidlm.tasks.partial import Partial, Scored
from braidlm.tasks.phonebook import PhonebookWork, describe_phonebook
from braidlm.tasks.scoring import Progress
from braidlm.tasks.work import Work

TaskProgress = Callable[[str, int, int], None]
"""Called with ("<kind>-<name>", items done, items in all)."""


def make_ready(task_config: Task, tokenizer: Tokenizer, recipe: Recipe) -> Work:
    """Return the items of a task, before any model sees them.

    Raises:
        InputError: a source or a tokenizer that does not fit the task.
    """
    match task_config:
        case LMTask():
            return LMWork(task_config, tokenizer, recipe)
        case MQARTask():
            return MQARWork(task_config, recipe)
        case PhonebookTask():
            return PhonebookWork(task_config, tokenizer, recipe)


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
        progress: told (items done, items in all).

    Returns:
        The payload of a result file: metric, value, stderr, n, metrics, tables, and whether the
        contexts are longer than the trained ones.

    Raises:
        InputError: a source that does not fit the task.
    """
    work = make_ready(task_config, tokenizer, recipe)
    scored = _ask(work, lambda: model, Partial(None, {}), dtype, progress)
    return work.summary([row for batch in scored for row in batch.rows])


def describe(task: Task, recipe: Recipe, tokenizer: Tokenizer | None = None) -> str:
    """Return one example of a task, drawn for a person.

    Raises:
        InputError: a source that does not fit the task.
    """
    if isinstance(task, MQARTask):
        return describe_mqar(task, recipe)
    tokenizer = tokenizer or load_tokenizer(recipe.data.tokenizer)
    if isinstance(task, LMTask):
        return describe_lm(task, tokenizer, recipe)
    return describe_phonebook(task, tokenizer, recipe)


def evaluate(
    run_dir: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    checkpoint: str | None = None,
    progress: TaskProgress | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    tasks_file: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    kept: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Run a recipe's tasks on a run's checkpoint, and write ``results/<kind>-<name>.json``.

    A task whose result is there already, from the same items, weights, device, dtype and code
    version, is not asked again. One that was interrupted goes on after its last whole batch.

    Args:
        run_dir: the run directory.
        tasks: which ones, see `choose_tasks`; None: all.
        checkpoint: name of a folder in the run's ``checkpoints``, or None for the newest.
        progress: told how far each task is.
        device: "auto", "cpu" or "cuda"; None: the recipe's.
        dtype: "fp32" or "bf16"; None: fp32 on a CPU, as trained on a GPU.
        limit: documents or items at most. Such a quick look replaces no result: nothing is written.
        tasks_file: a TOML file with more tasks, see `with_tasks`.
        overrides: such as ``tasks.recall.n_items=50``, see `with_tasks`.
        force: ask again whatever is there.
        kept: told "<kind>-<name>" of every result that is not measured again.

    Returns:
        The result files' contents in the order of the recipe; with `limit` the measured part alone.

    Raises:
        InputError: no run, no such task or checkpoint, a damaged checkpoint, a task that its
            source cannot serve, or one that another process is measuring now.
        OSError: a result cannot be written.
    """
    run = _open(run_dir)
    recipe, added = with_tasks(run, tasks_file, overrides)
    names = tasks if tasks is not None or not added else added
    chosen = [limited(task, limit) for task in choose_tasks(recipe, names)]
    place = choose_device(device or recipe.train.device)
    precision = choose_dtype(dtype, place, recipe.train.precision)
    asked = _Asked(run, recipe, _checkpoint(run, checkpoint), place, precision)
    found = []
    for task in chosen:
        stem = f"{task.kind}-{task.name}"

        def tell(done: int, total: int, stem: str = stem) -> None:
            if progress is not None:
                progress(stem, done, total)

        if limit is not None:
            found.append(asked.look(task, tell))
            continue
        work = make_ready(task, asked.tokenizer, recipe)
        with run.measuring(task.kind, task.name):
            result = None if force else asked.earlier(task, work)
            if result is not None and kept is not None:
                kept(stem)
            found.append(result or asked.measure(task, work, tell, force=force))
    return found


@dataclass(frozen=True)
class _Asked:
    """A checkpoint, and how it is asked."""

    run: Run
    recipe: Recipe
    folder: Path
    device: torch.device
    dtype: str

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.recipe.data.tokenizer)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return checkpoints.read_manifest(self.folder)

    @cached_property
    def model(self) -> nn.Module:
        """Loaded when it is needed first: a finished evaluation needs none."""
        model, stored = checkpoints.load_model(self.folder, self.device)
        if stored.spec != self.recipe.spec:
            raise InputError(
                f"{self.folder} holds a model of another spec ('{stored.spec.pattern}', d_model "
                f"{stored.spec.d_model}) than {self.run.path / 'config.json'} "
                f"('{self.recipe.spec.pattern}', d_model {self.recipe.spec.d_model})"
            )
        return model

    def key(self, task: Task, work: Work) -> dict[str, Any]:
        """All that decides a result; its parts are fields of the result file."""
        config = task.model_dump(mode="json", exclude={"name"})
        weights = self.manifest["files"][checkpoints.WEIGHTS]["sha256"]
        return {
            "task": {"config": config, **work.identity, "items": work.digest},
            "weights": weights,
            "checkpoint": self.folder.name,
            "device": self.device.type,
            "dtype": self.dtype,
            "code_version": code_version(),
        }

    def earlier(self, task: Task, work: Work) -> dict[str, Any] | None:
        """Return the result that is there already, if it is whole and would come out the same."""
        with contextlib.suppress(InputError, AttributeError):
            result = read_json(self.run.results_dir / f"{task.kind}-{task.name}.json")
            key = self.key(task, work)
            if {field: result.get(field) for field in key} == key:
                read_items(self.run.results_dir, result)
                return result
        return None

    def measure(
        self, task: Task, work: Work, progress: Progress, *, force: bool = False
    ) -> dict[str, Any]:
        """Ask what is not asked yet, and write the result."""
        key = self.key(task, work)
        path = self.run.results_dir / f".{task.kind}-{task.name}.partial.jsonl"
        if force:
            path.unlink(missing_ok=True)
        partial = Partial(path, key)
        payload, rows = self._result(work, partial, progress)
        payload |= {"task": key["task"], "weights": key["weights"]}
        columns = {name: column._asdict() for name, column in work.columns.items()}
        payload |= {"items": {"columns": columns}}
        written = self.run.write_result(task.kind, task.name, payload, rows)
        partial.close()
        return read_json(written)

    def look(self, task: Task, progress: Progress) -> dict[str, Any]:
        """Ask without writing anything."""
        work = make_ready(task, self.tokenizer, self.recipe)
        payload, _ = self._result(work, Partial(None, {}), progress)
        return {"kind": task.kind, "name": task.name, **payload}

    def _result(
        self, work: Work, partial: Partial, progress: Progress
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        with _threads(self.recipe.train.threads):
            scored = _ask(work, lambda: self.model, partial, self.dtype, progress)
        rows = [row for batch in scored for row in batch.rows]
        ops = {name: impl for batch in scored for name, impl in batch.ops.items()}
        return work.summary(rows) | {
            "wall_sec": sum(batch.wall_sec for batch in scored),
            "ops": ops,
            "step": self.manifest["step"],
            "checkpoint": self.folder.name,
            "seed": self.recipe.seed,
            "device": self.device.type,
            "dtype": self.dtype,
        }, rows


def _ask(
    work: Work,
    model: Callable[[], nn.Module],
    partial: Partial,
    dtype: str,
    progress: Progress | None,
) -> list[Scored]:
    """Score every batch that `partial` does not hold, in order; return all of them."""
    done, total = 0, sum(map(len, work.batches))
    for number, batch in enumerate(work.batches):
        if number not in partial.batches:
            asked = model()
            dispatch.reset()
            began = time.perf_counter()
            with inference(asked, dtype):
                rows = work.score(asked, batch)
            partial.add(number, Scored(rows, time.perf_counter() - began, dispatch.used()))
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return [partial.batches[number] for number in range(len(work.batches))]


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
