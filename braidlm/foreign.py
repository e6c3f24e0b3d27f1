"""What of a path tells that others wrote it: a GGUF file, or a folder of another library."""

from __future__ import annotations

import os
from pathlib import Path

from braidlm.files import read_json

MAGIC = b"GGUF"
SUFFIX = ".gguf"
ADVICE = "'braid import' makes a run"


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file that calls itself GGUF, by its name or in its first bytes."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == SUFFIX or file.read(len(MAGIC)) == MAGIC


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a GGUF file, or a folder whose configuration is no recipe.

    Raises:
        InputError: the folder's `config.json` is no JSON.
    """
    if is_gguf(path):
        return True
    file = Path(path) / "config.json"
    if not file.is_file():
        return False
    config = read_json(file)
    return isinstance(config, dict) and "model" not in config


def no_folder(path: Path) -> str:
    """Say what is there instead of a folder, and what makes a run of it."""
    if not path.is_file():
        return "no such folder"
    return f"it is a file; {ADVICE} of it" if is_gguf(path) else "it is a file"
