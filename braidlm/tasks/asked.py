"""A checkpoint that is asked: which result is there already, and measuring one that is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import AnyTask
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.items import read_items
from braidlm.manifest import WEIGHTS, read_manifest
from braidlm.provenance import code_version
from braidlm.runs import Run
from braidlm.tasks.ask import ask, in_order, smaller
from braidlm.tasks.families import make_ready
from braidlm.tasks.filtering import Filtering, told
from braidlm.tasks.opening import load_asked, threads
from braidlm.tasks.partial import Partial
from braidlm.tasks.scoring import Progress
from braidlm.tasks.work import Work


class UnusableError(InputError):
    """The checkpoint cannot be asked anything."""


@dataclass(frozen=True)
class Asked:
    """A checkpoint, and how it is asked."""

    run: Run
    recipe: Recipe
    folder: Path
    device: torch.device
    dtype: str
    batch_size: int | None = None
    """Items of one batch at most; None: as many as a task takes together."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the recipe's data."""
        return load_tokenizer(self.recipe.data.tokenizer)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the checkpoint says of itself.

        Raises:
            UnusableError: it is missing or damaged.
        """
        with _usable():
            return read_manifest(self.folder)

    @cached_property
    def model(self) -> nn.Module:
        """Loaded when it is needed first: a finished evaluation needs none.

        Raises:
            UnusableError: a damaged checkpoint, or one of another model than the run's.
        """
        with _usable():
            return load_asked(self.run, self.recipe, self.folder, self.device)

    def key(self, task: AnyTask, work: Work) -> dict[str, Any]:
        """All that decides a result; its parts are fields of the result file.

        Where data lies decides nothing: the items say what was read. Nor does the size of pieces.
        """
        unsaid = {"name", "path", "files", "tokens_at_once"}
        config = task.model_dump(mode="json", exclude=unsaid)
        weights = self.manifest["files"][WEIGHTS]["sha256"]
        return {
            "task": {"config": config, **work.identity, "items": work.digest},
            "weights": weights,
            "checkpoint": self.folder.name,
            "device": self.device.type,
            "dtype": self.dtype,
            "code_version": code_version(),
        }

    def earlier(self, task: AnyTask, work: Work) -> dict[str, Any] | None:
        """Return the result that is there already, if it is whole and would come out the same."""
        with contextlib.suppress(InputError, AttributeError):
            result = read_json(self.run.results_dir / f"{task.kind}-{task.name}.json")
            key = self.key(task, work)
            if {field: result.get(field) for field in key} == key:
                read_items(self.run.results_dir, result)
                return result
        return None

    def measure(
        self, task: AnyTask, work: Work, progress: Progress, *, force: bool = False
    ) -> dict[str, Any]:
        """Ask what is not asked yet, and write the result."""
        key = self.key(task, work)
        path = self.run.results_dir / f".{task.kind}-{task.name}.partial.jsonl"
        if force:
            path.unlink(missing_ok=True)
        batches = smaller(work.batches, self.batch_size)
        partial = Partial(path, key | {"batches": [list(batch) for batch in batches]})
        payload, rows = self._result(task, work, batches, partial, progress)
        payload |= {"task": key["task"], "weights": key["weights"]}
        columns = {name: column._asdict() for name, column in work.columns.items()}
        payload |= {"items": {"columns": columns}}
        written = self.run.write_result(task.kind, task.name, payload, rows)
        partial.close()
        return read_json(written)

    def look(self, task: AnyTask, progress: Progress) -> dict[str, Any]:
        """Ask without writing anything."""
        work = make_ready(task, lambda: self.tokenizer, self.recipe)
        batches = smaller(work.batches, self.batch_size)
        payload, _ = self._result(task, work, batches, Partial(None, {}), progress)
        return {"kind": task.kind, "name": task.name, **payload}

    def _result(
        self,
        task: AnyTask,
        work: Work,
        batches: list[Sequence[int]],
        partial: Partial,
        progress: Progress,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        filtering = Filtering(task, self.recipe)
        with threads(self.recipe.train.threads):
            scored = ask(
                work, batches, lambda: self.model, partial, self.dtype, progress, filtering
            )
        rows = in_order(batches, scored)
        ops = {name: impl for batch in scored for name, impl in batch.ops.items()}
        kept = told(batch.kept for batch in scored)
        return work.summary(rows) | kept | {
            "wall_sec": sum(batch.wall_sec for batch in scored),
            "ops": ops,
            "step": self.manifest["step"],
            "checkpoint": self.folder.name,
            "seed": self.recipe.seed,
            "device": self.device.type,
            "dtype": self.dtype,
        }, rows


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Let what is wrong with the checkpoint stop every task, not the one that meets it first."""
    try:
        yield
    except InputError as error:
        raise UnusableError(str(error)) from None
