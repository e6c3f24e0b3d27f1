"""The rows of `metrics.jsonl` for other programs to show: TensorBoard and trackio.

`metrics.jsonl` stays the truth: what stands elsewhere is written from the same rows.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.runs import Run


class Writer(Protocol):
    """What the loop asks of a place that rows are written to."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one step."""

    def close(self) -> None:
        """Write what is still held back."""


def check_installed(names: Sequence[str]) -> None:
    """Import what the writers need.

    Raises:
        InputError: a package is not installed; names the extra that brings it.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"train.log_to = '{name}': it cannot be imported ({error}); "
                f"pip install 'braidlm[{name}]'"
            ) from None


@contextlib.contextmanager
def open_writers(recipe: Recipe, directory: Run) -> Iterator[list[Writer]]:
    """Open the writers of `train.log_to`, after `metrics.jsonl` has its rows up to the present.

    Raises:
        InputError: a package is not installed.
    """
    check_installed(recipe.train.log_to)
    kinds = {"tensorboard": TensorBoard, "trackio": Trackio}
    with contextlib.ExitStack() as opened:
        writers = []
        for name in recipe.train.log_to:
            writers.append(kinds[name](recipe, directory))
            opened.callback(writers[-1].close)
        yield writers


def numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of a row under names such as "telemetry/grad_norm/mlp"."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value) and prefix + key != "step":
            found[prefix + key] = float(value)
    return found


class TensorBoard:
    """Event files in the folder `tensorboard` of the run.

    They are written anew from `metrics.jsonl` at every start: a resumed run has each step once.
    """

    def __init__(self, recipe: Recipe, directory: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder: Path = directory.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self.events = SummaryWriter(str(folder))
        for row in directory.metrics():
            self.write(row["step"], numbers(row))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one step."""
        for name, value in values.items():
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held back."""
        self.events.close()


class Trackio:
    """A run of trackio: project is the recipe's name; `trackio.json` holds the run's name there.

    Rows that were sent once are not sent again: after a resumption they have the same numbers.
    """

    def __init__(self, recipe: Recipe, directory: Run) -> None:
        self.trackio = importlib.import_module("trackio")
        self.path = directory.path / "trackio.json"
        known = self.path.is_file()
        fresh = {"name": f"seed-{recipe.seed}-{uuid.uuid4().hex[:8]}", "step": 0}
        self.mark: dict[str, Any] = read_json(self.path) if known else fresh
        write_json(self.path, self.mark)
        self.trackio.init(
            project=recipe.name,
            name=self.mark["name"],
            config=recipe.to_dict(),
            resume="allow" if known else "never",
            embed=False,
        )
        for row in directory.metrics():
            self.write(row["step"], numbers(row))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of one step, unless they have been sent."""
        if step > self.mark["step"]:
            self.trackio.log(dict(values), step=step)
            self.mark["step"] = step
            write_json(self.path, self.mark)

    def close(self) -> None:
        """Send what is still held back."""
        self.trackio.finish()
