"""Files that are whole or absent: atomic replacement, and JSON that any reader accepts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from braidlm.errors import InputError


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one move; on any failure the earlier file stays as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # a full disk names no file, a closed folder the wrong one
            error.filename = str(path)
        raise
    sync_folder(path.parent)
    _remove_leftovers(path)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` whose process was killed before it could."""
    start = f".{path.name}."
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            pid = name.removeprefix(start).removesuffix(".tmp")
            if name == f"{start}{pid}.tmp" and pid.isdecimal() and _is_gone(int(pid)):
                path.with_name(name).unlink(missing_ok=True)


def _is_gone(pid: int) -> bool:
    if os.name != "posix":  # elsewhere the question itself would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def sync_folder(folder: Path) -> None:
    """Make the renames inside `folder` survive a power cut, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def strict_json(value: Any) -> Any:
    """Return `value` with every number that JSON cannot hold (nan, infinity) as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented strict JSON, atomically.

    Raises:
        OSError: see `atomic_write`.
    """
    text = json.dumps(strict_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Half of a character, as in a damaged file name, has no bytes; its escape means the same.
    atomic_write(path, (text + "\n").encode("utf-8", "backslashreplace"))


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON-able `data` with its own checksum, so that no part of it can change unseen."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return {**rest, "sha256": digest}


def is_unaltered(data: Mapping[str, Any]) -> bool:
    """Whether data that was `sealed` is as it was; what has no checksum is taken as it is."""
    return "sha256" not in data or data["sha256"] == sealed(data)["sha256"]


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        InputError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from None
