"""The student from stage to stage: copied, trained, and at last a run of its own."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.convert.copying import copy_weights
from braidlm.convert.fitting import fit_outputs, train_only
from braidlm.convert.folder import Folder, is_finished
from braidlm.convert.objective import Student
from braidlm.convert.target import Target
from braidlm.device import choose_device
from braidlm.files import atomic_write
from braidlm.manifest import WEIGHTS, read_manifest
from braidlm.model import HybridLM
from braidlm.runs import Run
from braidlm.tasks.stats import ratio
from braidlm.train import Summary, train
from braidlm.train.loop import build_mixture, build_model, surroundings
from braidlm.train.precision import resolve_precision
from braidlm.train.progress import Progress
from braidlm.train.step import rows_of

Row = dict[str, Any]


class Clock:
    """A budget of time.

    Args:
        minutes: from now on; None: no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        """Whether nothing more should begin."""
        return self.end is not None and time.monotonic() >= self.end


class Timed:
    """Tells of a training, and asks it to save and stop when the time is over."""

    def __init__(self, inner: Progress, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    def start(self, name: str, step: int, steps: int) -> None:
        """Pass on."""
        self.inner.start(name, step, steps)

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        """Pass on; elsewhere than in the main thread nobody could catch the signal."""
        self.inner.update(step, loss, n_tokens)
        if self.clock.is_over and threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGTERM)

    def close(self, state: str) -> None:
        """Pass on."""
        self.inner.close(state)


class Stages:
    """The stages of one conversion, each begun from the weights of the one before."""

    def __init__(self, folder: Folder, target: Target) -> None:
        self.folder, self.target = folder, target
        self.device = choose_device(folder.conversion.train.device)

    @cached_property
    def teacher(self) -> HybridLM:
        """On the device, in evaluation mode and without gradients."""
        model, _ = checkpoint.load_model(self.folder.teacher, self.device, torch.float32)
        return model.requires_grad_(False)

    def recipe(self, number: int) -> Recipe:
        """Return the recipe of a stage's run."""
        return self.folder.conversion.recipe(self.target.spec, number)

    def copy(self) -> None:
        """Make stage 0, unless it is there."""
        path, recipe = self.folder.stages[0], self.recipe(0)
        if is_finished(path):
            return
        changes, share = self.target.changes, self.folder.conversion.convert.share
        began = time.perf_counter()
        with surroundings(recipe.train, self.device):
            student = build_model(recipe).to(self.device).eval()
            rows = copy_weights(student, self.teacher, changes, share)
            fitted = self._fit(student, recipe)
            self.folder.write_untrained(path, recipe, student)
        wall_sec = time.perf_counter() - began
        self._tell_of_copy(
            path, [row | found for row, found in zip(rows, fitted, strict=True)], wall_sec
        )

    def _fit(self, student: HybridLM, recipe: Recipe) -> list[Row]:
        """Fit the new output projections on the first rows of the data."""
        batch = build_mixture(recipe).batch(0)
        size = recipe.train.micro_batch_size or recipe.train.batch_size
        tokens, _, segments = rows_of(batch, slice(0, size), self.device)
        with resolve_precision(recipe.train.precision, self.device).autocast():
            return fit_outputs(student, self.teacher, self.target.changes, tokens, segments)

    def _tell_of_copy(self, path: Path, table: list[Row], wall_sec: float) -> None:
        """Write what was copied where, and how far each new mixer is from its attention."""
        errors = ratio([row["error"] for row in table], [1.0] * len(table))
        about = {"metric": "layer_error", "metrics": {"layer_error": errors.as_metric("share")}}
        about |= {"tables": {"layers": table}, "step": 0, "checkpoint": "step-00000000"}
        about |= {"device": self.device.type, "dtype": "fp32", "ops": {}, "wall_sec": wall_sec}
        Run(path).write_result("convert", "copy", about)

    def run(self, number: int, progress: Progress) -> Summary | None:
        """Train one stage to its end, or go on with it; None: it has ended before."""
        path, recipe = self.folder.stages[number], self.recipe(number)
        if is_finished(path):
            return None
        stage = self.folder.conversion.convert.stages[number - 1]
        teacher = None if stage.kind == "text" else self.teacher
        with torch.random.fork_rng(devices=[]):
            student = Student(recipe.spec, teacher, self.target.changes, stage.kind)
        checkpoint.load_weights(checkpoint.latest(self.folder.stages[number - 1]), student)
        train_only(student, self.target.changes, stage.trained)
        summary = train(recipe, path, resume=True, progress=progress, model=student)
        self.folder.give_tokenizer(path)
        return summary

    def finish(self) -> None:
        """Make the folder itself a run of the student, with the last stage's weights and results.

        Step and checkpoint are those of the last stage, so that what was measured of it is a
        measurement of the student.
        """
        last, recipe = self.folder.stages[-1], self.last_recipe
        run, source = Run(self.folder.path), checkpoint.latest(last)
        step = read_manifest(source)["step"]
        checkpoint.save_with(
            checkpoint.checkpoint_path(run.path, step),
            lambda file: _link(source / WEIGHTS, file),
            recipe=recipe.to_dict(),
            step=step,
        )
        if self._last_is_of_text and (last / "metrics.jsonl").is_file():
            atomic_write(run.path / "metrics.jsonl", (last / "metrics.jsonl").read_bytes())
        self.copy_results()
        run.set_status("done", step, step)

    @property
    def last_recipe(self) -> Recipe:
        """That of the last stage, under the conversion's name."""
        recipe = self.recipe(len(self.folder.stages) - 1)
        return recipe.model_copy(update={"name": self.folder.conversion.name})

    def copy_results(self) -> None:
        """Let the student have what was measured of the last stage."""
        for file in sorted((self.folder.stages[-1] / "results").glob("*.json*")):
            if not file.name.startswith("convert-"):
                shutil.copyfile(file, self.folder.path / "results" / file.name)

    @property
    def _last_is_of_text(self) -> bool:
        stages = self.folder.conversion.convert.stages
        return bool(stages) and stages[-1].kind == "text"


def _link(source: Path, file: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    try:
        os.link(source, file)
    except OSError:
        shutil.copyfile(source, file)
