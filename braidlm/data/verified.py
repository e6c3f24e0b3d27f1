"""Which files of a shard folder have been compared with their checksums already.

A terabyte is not read again at every start: `.verified.json` beside the shards records each file
that was found whole as (sha256, size, inode, times of content and of metadata). A file for which
any of them differs is read again. What this cannot see is a disk that loses bits by itself.
"""

import contextlib
import json
import time
from pathlib import Path

from braidlm.files import write_json

NAME = ".verified.json"
_FRESH_NS = 2 * 10**9
# A write in the same tick of the clock as the check would leave the times as they are.


class Verified:
    """The record of one shard folder; an unreadable one is an empty one."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: dict[str, list[str | int]] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads((folder / NAME).read_bytes())
            self._known = found if isinstance(found, dict) else {}
        self._is_new = False

    def holds(self, name: str, sha256: str) -> bool:
        """Whether a file was found whole, and has not been touched since."""
        return self._known.get(name) == self._stamp(name, sha256)

    def add(self, name: str, sha256: str) -> None:
        """Note that a file was found whole, unless it has only just been written."""
        if time.time_ns() - (self._folder / name).stat().st_mtime_ns > _FRESH_NS:
            self._known[name] = self._stamp(name, sha256)
            self._is_new = True

    def save(self) -> None:
        """Write the record, where the folder can be written."""
        if self._is_new:
            with contextlib.suppress(OSError):
                write_json(self._folder / NAME, self._known)
            self._is_new = False

    def _stamp(self, name: str, sha256: str) -> list[str | int]:
        stat = (self._folder / name).stat()
        return [sha256, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
