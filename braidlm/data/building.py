"""A folder that is built under another name and appears whole, or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from braidlm.files import sync_folder

try:
    import fcntl
except ImportError:  # a system without flock: what a killed build leaves stays there
    fcntl = None

PREFIX = ".building-"


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Give a new folder to write in; when the block ends well it becomes `folder`.

    If `folder` is there by then, another process was first, and its work stands. What builders
    left that are gone is removed first: a builder holds a lock beside its folder, which ends
    with its process however that ends.

    Raises:
        OSError: the folder cannot be made, written or renamed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent)
    temporary = folder.with_name(f"{PREFIX}{folder.name}-{uuid.uuid4().hex[:12]}")
    with _locked(temporary):
        temporary.mkdir()
        try:
            yield temporary
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        # A folder that is there now was finished by another process from the same sources.
        if not folder.exists():
            raise
    sync_folder(folder.parent)


@contextlib.contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    path = _lock_of(temporary)
    with path.open("wb") as file:
        _try_lock(file)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders whose builder is gone, and then their locks."""
    for entry in list(parent.glob(f"{PREFIX}*")):
        if entry.name.endswith(".lock"):
            _remove_if_free(entry)
        elif not _lock_of(entry).exists():  # the lock is made before the folder
            shutil.rmtree(entry, ignore_errors=True)


def _remove_if_free(lock: Path) -> None:
    with contextlib.suppress(OSError), lock.open("rb") as file:
        if _try_lock(file):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            os.unlink(lock)


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(temporary.name + ".lock")


def _try_lock(file: BinaryIO) -> bool:
    """Take the lock without waiting; False where another holds it or nothing can be told."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
