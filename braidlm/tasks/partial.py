"""What an interrupted task had scored, kept beside the results until they are whole.

    results/.<kind>-<name>.partial.jsonl
        {"key": {...}}                                           what was asked of which weights
        {"batch": 0, "wall_sec": 0.8, "ops": {...}, "rows": [...]}   one line per scored batch

A line is whole or it is not read. A file whose key is another one is written anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.files import atomic_write, strict_json
from braidlm.tasks.work import Row


class Scored(NamedTuple):
    """One batch of a task."""

    rows: list[Row]
    """One per item."""
    wall_sec: float
    """How long it took."""
    ops: dict[str, str]
    """Operator -> the implementations that ran."""
    kept: dict[str, list[int]]
    """What a token filter kept, see `filtering.Kept`; {} without one."""


class Partial:
    """The batches of one task that are scored already; reads what an earlier process left.

    Args:
        path: the file; None: nothing is kept.
        key: all that decides the rows.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self._path, self._key = path, strict_json(key)
        self._is_begun = False
        self.batches: dict[int, Scored] = {} if path is None else _read(path, self._key)

    def add(self, batch: int, scored: Scored) -> None:
        """Keep one more batch.

        Raises:
            OSError: the file cannot be written.
        """
        if self._path is not None:
            if not self._is_begun:
                self._begin(self._path)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_line(batch, scored))
        self.batches[batch] = scored

    def _begin(self, path: Path) -> None:
        """Write what was read anew, without a line that was cut."""
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"key": self._key}) + "\n"]
        lines += [_line(batch, scored) for batch, scored in self.batches.items()]
        atomic_write(path, "".join(lines).encode())
        self._is_begun = True

    def close(self) -> None:
        """Remove the file: the result is whole."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _line(batch: int, scored: Scored) -> str:
    return json.dumps({"batch": batch, **scored._asdict()}) + "\n"


def _read(path: Path, key: Any) -> dict[int, Scored]:
    """Return the batches of a file with this key, up to a line that was cut."""
    found: dict[int, Scored] = {}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if json.loads(lines[0])["key"] != key:
            return {}
        for line in lines[1:]:
            entry = json.loads(line)
            batch = entry.pop("batch")
            found[batch] = Scored(**entry)
    return found
