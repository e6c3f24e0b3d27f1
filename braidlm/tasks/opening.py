"""From a run directory to the model that is asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from braidlm import checkpoint as checkpoints
from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.manifest import MANIFEST
from braidlm.model import HybridLM
from braidlm.runs import Run


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory.

    Raises:
        InputError: there is none, or `path` is a checkpoint.
    """
    if (Path(path) / MANIFEST).is_file():
        raise InputError(f"{path} is a checkpoint: give its run directory, and its name apart")
    return Run.open(path)


def choose_checkpoint(run: Run, name: str | None) -> Path:
    """Return the folder of the checkpoint `name`, or of the newest.

    Raises:
        InputError: the run has no such checkpoint.
    """
    if name is None:
        return checkpoints.latest(run.path)
    folder = run.checkpoints_dir / name
    found = checkpoints.checkpoints(run.path)
    if folder not in found:
        known = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{run.path} has no checkpoint '{name}'; it has: {known}")
    return folder


def load_asked(run: Run, recipe: Recipe, folder: Path, device: torch.device) -> HybridLM:
    """Load a checkpoint of a run.

    Raises:
        InputError: a damaged checkpoint, or one of another model than the run's.
    """
    model, stored = checkpoints.load_model(folder, device)
    if stored.spec != recipe.spec:
        raise InputError(
            f"{folder} holds a model of another spec ('{stored.spec.pattern}', d_model "
            f"{stored.spec.d_model}) than {run.path / 'config.json'} "
            f"('{recipe.spec.pattern}', d_model {recipe.spec.d_model})"
        )
    return model


@contextlib.contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Use so many CPU threads while inside; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
