"""Data files of several splits in a folder of many data sets: ``FOLDER/DATASET/SPLIT.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from braidlm.data.compression import PACKED
from braidlm.errors import InputError


def places(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return where a data set of these names may lie, also one level deeper; the likeliest first.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"data {folder} must be a folder that exists")
    called = dict.fromkeys(name for name in names if name)
    return [p for name in called for p in (folder / name, *sorted(folder.glob(f"*/{name}")))]


def split_file(place: Path, split: str) -> Path | None:
    """Return the file of a split, plain or packed; None: there is none."""
    files = (place / f"{split}.jsonl{ending}" for ending in PACKED)
    return next((file for file in files if file.is_file()), None)


def absent(place: Path, split: str) -> str:
    """Say that a split has no file."""
    return f"data file {place / split}.jsonl (or .gz, .xz, .zst) does not exist"
