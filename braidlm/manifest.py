"""The manifest of a checkpoint: what each of its files must be, written last and read first."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.files import is_unaltered, read_json, sealed, write_json
from braidlm.provenance import code_version, now

FORMAT_VERSION = 1
WEIGHTS, CONFIG, TRAIN_STATE, MANIFEST = (
    "weights.safetensors",
    "config.json",
    "train_state.pt",
    "manifest.json",
)


def write_manifest(folder: Path, step: int) -> None:
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


def is_complete(path: Path) -> bool:
    """Whether every file of the manifest is there with its size (contents are not read)."""
    try:
        _check_files(path, with_digests=False)
    except InputError:
        return False
    return True


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
