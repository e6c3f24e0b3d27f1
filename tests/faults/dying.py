"""Die inside a chosen write: every change of a file is counted, and one of them is the last.

A write dies after any number of its bytes, a rename, unlink or fsync before or after it is done.
`power` also takes back what no fsync had forced to the disk, as a cut of the power may.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

_CALLS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "ftruncate")


@dataclass
class Death:
    """The `at`-th change below `folder` is the last one; `share` of a write's bytes are written."""

    folder: Path
    at: int
    share: float = 0.0
    power: bool = False
    seen: int = 0
    unsynced: dict[str, int] = field(default_factory=dict)
    """File -> its bytes that are on the disk for sure."""

    def reached(self) -> bool:
        """Count a change; whether it is the one to die in."""
        self.seen += 1
        return self.seen == self.at

    def die(self) -> None:
        """End without any handler, `finally` or flush; take back what was not synced."""
        for path, size in self.unsynced.items() if self.power else ():
            if os.path.isfile(path):
                _truncate(path, size)
        os.kill(os.getpid(), signal.SIGKILL)

    def wrote(self, path: str, size_before: int) -> None:
        """Note that a file grew beyond what is on the disk."""
        self.unsynced.setdefault(path, size_before)

    def moved(self, old: str, new: str) -> None:
        """Carry the notes of a file, or of all files in a folder, to their new name."""
        for path in [p for p in self.unsynced if p == old or p.startswith(f"{old}/")]:
            self.unsynced[new + path[len(old) :]] = self.unsynced.pop(path)

    def is_ours(self, path: object) -> bool:
        """Whether a path or an open descriptor lies below the folder."""
        return self.place(path).startswith(f"{self.folder}/")

    @staticmethod
    def place(path: object) -> str:
        """Absolute path of a path or of an open descriptor."""
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}")
        return os.path.abspath(os.fsdecode(path)) if isinstance(path, str | os.PathLike) else ""


_truncate = os.truncate


class _Mortal:
    """A file that is open for writing."""

    def __init__(self, file: Any, path: str, death: Death) -> None:
        self._file, self._path, self._death = file, path, death

    def write(self, data: Any) -> int:
        """Write all of it, or a share of it and die."""
        self._file.flush()
        self._death.wrote(self._path, os.path.getsize(self._path))
        if self._death.reached():
            self._file.write(data[: int(len(data) * self._death.share)])
            self._file.flush()
            self._death.die()
        return self._file.write(data)

    def __enter__(self) -> _Mortal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def install(death: Death) -> None:
    """Make this process mortal, for good: meant for a forked child."""
    real_open, real_write, real_sync = builtins.open, os.write, os.fsync

    def mortal_open(file: Any, mode: str = "r", *args: Any, **settings: Any) -> Any:
        found = real_open(file, mode, *args, **settings)
        if not set(mode) & set("wax+") or not death.is_ours(file):
            return found
        if set(mode) & set("w"):
            death.wrote(death.place(file), 0)
        return _Mortal(found, death.place(file), death)

    def mortal_write(descriptor: int, data: Any) -> int:
        if not death.is_ours(descriptor):
            return real_write(descriptor, data)
        death.wrote(death.place(descriptor), os.fstat(descriptor).st_size)
        if death.reached():
            real_write(descriptor, data[: int(len(data) * death.share)])
            death.die()
        return real_write(descriptor, data)

    def mortal_sync(descriptor: int) -> None:
        _dying(death, real_sync)(descriptor)
        death.unsynced.pop(death.place(descriptor), None)

    def save_file(tensors: Any, path: Any, metadata: Any = None) -> None:
        """The same bytes as the library's, through a file that can die."""
        with mortal_open(path, "wb") as file:
            file.write(safetensors.torch.save(tensors, metadata))

    builtins.open = io.open = mortal_open
    os.write, os.fsync = mortal_write, mortal_sync
    for name in _CALLS:
        setattr(os, name, _dying(death, getattr(os, name)))
    safetensors.torch.save_file = save_file


def _dying(death: Death, call: Callable[..., Any]) -> Callable[..., Any]:
    """A system call that dies before it is done (share below 1/2) or after it."""

    def mortal(*args: Any, **settings: Any) -> Any:
        if settings.get("dir_fd") is None and not death.is_ours(args[0]):
            return call(*args, **settings)
        is_last = death.reached()
        if is_last and death.share < 0.5:
            death.die()
        found = call(*args, **settings)
        if call.__name__ in ("replace", "rename"):
            death.moved(death.place(args[0]), death.place(args[1]))
        if is_last:
            death.die()
        return found

    return mortal
