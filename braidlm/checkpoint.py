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

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from braidlm.arch import Recipe
from braidlm.arch.kept import kept_recipe
from braidlm.errors import InputError
from braidlm.files import is_unaltered, no_folder, read_json, sealed, sync_folder, write_json
from braidlm.model import HybridLM
from braidlm.provenance import code_version, now
from braidlm.tensors import write_held

FORMAT_VERSION = 1
KEPT_PRECISE = frozenset({"A_log", "D", "dt_bias"})
WEIGHTS, CONFIG, TRAIN_STATE, MANIFEST = (
    "weights.safetensors",
    "config.json",
    "train_state.pt",
    "manifest.json",
)


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
        _write_manifest(temporary, step)
        _put_in_place(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):  # a full disk names no file, or one that is gone by now
            error.filename = str(path)
        raise


class _Remembering:
    """A file for `torch.save`, which otherwise hides the system's error behind a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error
            raise


def write_torch(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values to one file, which `torch.load(weights_only=True)` reads.

    Raises:
        OSError: the system's own error; `path` is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", buffering=1 << 20) as file:
            remembering = _Remembering(file)
            try:
                torch.save(dict(value), remembering)  # pyright: ignore[reportArgumentType]
            except RuntimeError as error:
                if remembering.error is None:
                    raise
                raise remembering.error from error
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_manifest(folder: Path, step: int) -> None:
    """Force every file to the disk and describe it; the manifest comes last."""
    files = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "code_version": code_version()}
    manifest |= {"written_at": now(), "files": files}
    write_json(folder / MANIFEST, sealed(manifest))


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
        raise InputError(f"{run_dir} has no checkpoint; others' weights need 'braid import' first")
    return found[-1]


def is_complete(path: Path) -> bool:
    """Whether every file of the manifest is there with its size (contents are not read)."""
    try:
        _check_files(path, with_digests=False)
    except InputError:
        return False
    return True


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


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a checkpoint's manifest: format_version, step, code_version, written_at, files.

    Raises:
        InputError: it is missing (the checkpoint is not complete), broken, or of another format.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is not a complete checkpoint: {MANIFEST} is missing")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise InputError(f"{path / MANIFEST} is not a checkpoint's manifest")
    version = manifest["format_version"]
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path / MANIFEST}: format_version = {version!r}; this version reads {FORMAT_VERSION}"
        )
    files = manifest.get("files")
    are_described = isinstance(files, dict) and all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= set(entry) for entry in files.values()
    )
    if not are_described or not isinstance(manifest.get("step"), int):
        raise InputError(f"{path / MANIFEST} lacks the step, or the size and sum of a file")
    if not is_unaltered(manifest):
        raise InputError(f"{path / MANIFEST} was altered: its own checksum differs")
    return manifest


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check presence, size and SHA-256 of every file and return the manifest.

    Raises:
        InputError: naming the first file that is missing, cut short or altered.
    """
    return _check_files(Path(path), with_digests=True)


def _check_files(path: Path, *, with_digests: bool) -> dict[str, Any]:
    manifest = read_manifest(path)
    hint = "delete this checkpoint to go on from an earlier one"
    for name in {WEIGHTS: 0, CONFIG: 0, **manifest["files"]}:
        file, expected = path / name, manifest["files"].get(name)
        if expected is None or not file.is_file():
            raise InputError(f"{file} is missing; {hint}")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise InputError(f"{file} has {size} bytes instead of {expected['bytes']}; {hint}")
        if with_digests and _digest(file) != expected["sha256"]:
            raise InputError(f"{file} is corrupt: its SHA-256 differs from the manifest's; {hint}")
    return manifest


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
