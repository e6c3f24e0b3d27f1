"""Checkpoints: a folder that is complete under its name, or is not there.

    weights.safetensors   every parameter and persistent buffer; tied weights once
    config.json           the complete recipe
    train_state.pt        optimizer, counters, random states (only in checkpoints of a training run)
    manifest.json         format version, step, code version, bytes and SHA-256 of each file above,
                          and its own SHA-256

A checkpoint is written into a hidden sibling folder, forced to the disk, and renamed. A process
that is killed at any moment therefore leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from braidlm.arch import Recipe
from braidlm.arch.kept import kept_recipe
from braidlm.errors import InputError
from braidlm.files import sync_folder, write_json
from braidlm.foreign import no_folder
from braidlm.manifest import (
    CONFIG,
    MANIFEST,
    TRAIN_STATE,
    WEIGHTS,
    is_complete,
    verify,
    write_manifest,
)
from braidlm.model import HybridLM
from braidlm.tensors import write_held, write_torch

KEPT_PRECISE = frozenset({"A_log", "D", "dt_bias"})


def checkpoint_path(run_dir: str | os.PathLike[str], step: int) -> Path:
    """Return where a run keeps its checkpoint after `step` updates."""
    return Path(run_dir) / "checkpoints" / f"step-{step:08d}"


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers; a tied one under its first name only."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor.detach()
    return unique


# writing


def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    recipe: Mapping[str, Any],
    step: int = 0,
    train_state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder in one move; one that has this name already is replaced.

    Args:
        path: the folder to make.
        model: whose weights are stored, in their own dtypes.
        recipe: `Recipe.to_dict()`.
        step: optimizer updates that made these weights.
        train_state: what resuming needs besides: tensors and plain Python values only.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing else has changed.
    """
    save_with(
        path,
        lambda file: write_held(file, unique_tensors(model)),
        recipe=recipe,
        step=step,
        train_state=train_state,
    )
    return Path(path)


def save_with(
    path: str | os.PathLike[str],
    write_weights: Callable[[Path], None],
    *,
    recipe: Mapping[str, Any],
    step: int = 0,
    train_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint as `save` does, the weights by a function that is given their file.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing else has changed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write_weights(temporary / WEIGHTS)
        write_json(temporary / CONFIG, recipe)
        if train_state is not None:
            write_torch(temporary / TRAIN_STATE, train_state)
        write_manifest(temporary, step)
        _put_in_place(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):  # a full disk names no file, or one that is gone by now
            error.filename = str(path)
        raise


def _put_in_place(temporary: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(temporary, path)
    sync_folder(path.parent)


# finding


def checkpoints(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first, damaged ones included."""
    folders = Path(run_dir).glob("checkpoints/step-*")
    return sorted(
        (p for p in folders if re.fullmatch(r"step-\d+", p.name)), key=lambda p: int(p.name[5:])
    )


def latest(run_dir: str | os.PathLike[str]) -> Path:
    """Return the newest checkpoint of a run.

    Raises:
        InputError: the run has none.
    """
    found = checkpoints(run_dir)
    if not found:
        is_run = (Path(run_dir) / "status.json").is_file()
        advice = (
            "none was saved or it was taken away: 'braid train' with --resume trains it again"
            if is_run
            else "weights that were not trained here need 'braid import' first"
        )
        raise InputError(f"{run_dir} has no checkpoint; {advice}")
    return found[-1]


def rotate(run_dir: str | os.PathLike[str], keep: int) -> None:
    """Delete all complete checkpoints but the newest `keep` (at least one), and broken-off writes.

    Call it only while holding the run's lock. Damaged checkpoints are left to be looked at.
    """
    for leftover in (Path(run_dir) / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    complete = [path for path in checkpoints(run_dir) if is_complete(path)]
    for path in complete[: -max(keep, 1)]:
        # Renamed first: a kill in the middle of the deletion leaves no half checkpoint.
        old = path.with_name(f".{path.name}.old")
        os.rename(path, old)
        shutil.rmtree(old, ignore_errors=True)


# reading


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Copy a verified checkpoint's weights into `model`, cast to its dtypes, on its device.

    Raises:
        InputError: weights of another spec; names the first tensor that differs. The model is
            then unchanged.
    """
    file = Path(path) / WEIGHTS
    try:
        stored = safetensors.torch.load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} is not readable as safetensors: {error}") from None
    expected = unique_tensors(model)
    other = f"{file} holds weights of another spec"
    for name, tensor in expected.items():
        shape = tuple(tensor.shape)
        if name not in stored:
            raise InputError(f"{other}: '{name}' of shape {shape} is missing")
        if (found := tuple(stored[name].shape)) != shape:
            raise InputError(f"{other}: '{name}' has shape {found}, expected {shape}")
    if extra := [name for name in stored if name not in expected]:
        shape = tuple(stored[extra[0]].shape)
        raise InputError(f"{other}: '{extra[0]}' of shape {shape} is unexpected")
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(stored[name])


def load_train_state(path: str | os.PathLike[str], *, lazily: bool = False) -> dict[str, Any]:
    """Return a verified checkpoint's training state, on the CPU; `lazily`: read when it is used.

    Raises:
        InputError: the checkpoint has none, or it cannot be read.
    """
    file = Path(path) / TRAIN_STATE
    if not file.is_file():
        raise InputError(f"{path} cannot be resumed: {TRAIN_STATE} is missing")
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # the unpickler raises whatever the damaged bytes lead it to
        first = str(error).partition("\n")[0]
        raise InputError(f"{file} is not readable as a training state: {first}") from None


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint that `path` means: itself, or the newest of a run directory.

    Raises:
        InputError: there is no such folder, or it is neither.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is neither a run nor a checkpoint: {no_folder(path)}")
    if (path / MANIFEST).is_file() or (path / WEIGHTS).is_file():
        return path
    return latest(path)


def load_model(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[HybridLM, Recipe]:
    """Build the model of a run directory (its newest checkpoint) or of a checkpoint folder.

    Args:
        path: the folder.
        device: where the model is put.
        dtype: cast of the weights, or None for the dtypes of the built model. A_log, D and
            dt_bias stay in fp32 beside narrower weights.

    Returns:
        The model in evaluation mode, and its recipe. Torch's random state is left as it was.

    Raises:
        InputError: nothing there, or missing, cut, corrupt or foreign files.
    """
    folder = resolve(path)
    verify(folder)
    recipe = kept_recipe(folder / CONFIG, folder.parent.parent)
    with torch.random.fork_rng(devices=[]):
        model = HybridLM(recipe.spec)
    load_weights(folder, model)
    if dtype is not None:
        cast_weights(model, dtype)
    return model.to(device).eval(), recipe


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast every weight but those of a recurrence, whose rounding changes how far it reaches.

    A_log, D and dt_bias stay in fp32 beside narrower weights, and buffers as they are.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in KEPT_PRECISE or dtype == torch.float64:
            parameter.data = parameter.data.to(dtype)
