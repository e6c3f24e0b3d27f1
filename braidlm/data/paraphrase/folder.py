"""The folder of paraphrases: a journal while it is made, and the files that are read later.

`journal.jsonl` has one line for each passage that is done, written whole or not at all: it alone
says what is done. Of a passage that was tried again the last line holds. `pairs.jsonl` and
`rejected.jsonl` are made from it in the order of the input, so that a folder is the same whatever
was done first, and `manifest.json` says what they are.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from braidlm.errors import InputError
from braidlm.files import read_json, sync_folder, write_json
from braidlm.provenance import code_version, package_versions
from braidlm.runs import hold

SCHEMA_VERSION = 1
MANIFEST, PAIRS, REJECTED, JOURNAL = (
    "manifest.json",
    "pairs.jsonl",
    "rejected.jsonl",
    "journal.jsonl",
)
EMPTY, DUPLICATE, NONE = "empty", "duplicate", "no paraphrase"
SETTLED = (EMPTY, DUPLICATE, NONE, "empty paraphrase")
"""Reasons of rows without a paraphrase that no other try would change."""
_HEADER = ("schema_version", "method", "settings", "seed", "source", "gate")

Row = dict[str, Any]
"""{"n": number of the paraphrase, "paraphrase", "scores", and "reason" where it is rejected}."""


class Pair(NamedTuple):
    """One line of `pairs.jsonl`."""

    id: str
    """The text's name, "#", and the number of the paraphrase."""
    text: str
    paraphrase: str
    scores: dict[str, float]

    @property
    def text_id(self) -> str:
        """What several paraphrases of one text share."""
        return self.id.rpartition("#")[0]


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a folder of paraphrases.

    Raises:
        InputError: it is no such folder, or of a later version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: holds no {MANIFEST}; `braid paraphrase` makes such a folder")
    manifest = read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version = {version!r}: must be {SCHEMA_VERSION}")
    return manifest


def read_pairs(folder: str | Path) -> Iterator[Pair]:
    """Yield the accepted paraphrases in the order of the input; those of one text come together.

    Raises:
        InputError: a line is no such record; the message names it.
    """
    yield from (
        Pair(r["id"], r["text"], r["paraphrase"], r["scores"]) for r in _read(folder, PAIRS)
    )


def read_rejected(folder: str | Path) -> Iterator[tuple[Pair, str]]:
    """Yield the rejected paraphrases with the reason, as `read_pairs`.

    A text that has no paraphrase at all has one line whose paraphrase is empty.
    """
    for r in _read(folder, REJECTED):
        yield Pair(r["id"], r["text"], r["paraphrase"], r["scores"]), r["reason"]


def _read(folder: str | Path, name: str) -> Iterator[dict[str, Any]]:
    from braidlm.data.records import read_jsonl

    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f"{path} is missing: run the same `braid paraphrase` again to the end")
    keys = ("id", "text", "paraphrase") + (("reason",) if name == REJECTED else ())
    for number, record in read_jsonl(path):
        for key in keys:
            if not isinstance(record.get(key), str):
                raise InputError(f'{path}, line {number}: field "{key}" must be text')
        if not isinstance(record.get("scores"), dict):
            raise InputError(f'{path}, line {number}: field "scores" must be an object')
        yield record


class Folder:
    """A folder that is being made. `Folder.open` gives it, locked."""

    def __init__(self, path: Path, header: Mapping[str, Any], journal: BinaryIO) -> None:
        self.path, self._header, self._journal = path, dict(header), journal
        self._places: dict[str, int] = {}
        self._load()

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, header: Mapping[str, Any]) -> Iterator[Folder]:
        """Make the folder, or take up one that was begun with the same header.

        Args:
            path: of the folder.
            header: method, settings, seed, source and gate, as plain data.

        Raises:
            InputError: it holds something else, was begun otherwise, or is in use.
            OSError: it cannot be written.
        """
        header = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **header}))
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path}: is a file; give the name of a folder")
        _check(path, header)
        path.mkdir(parents=True, exist_ok=True)
        with open(path / ".lock", "ab") as lock:
            hold(lock, f"{path} is in use: another process is making it")
            _check(path, header)
            if not _is_begun(path):
                _write_manifest(path, header, None, is_complete=False)
            with open(path / JOURNAL, "a+b") as journal:
                yield cls(path, header, journal)

    def __contains__(self, passage: str) -> bool:
        return passage in self._places

    @property
    def n_done(self) -> int:
        """Passages that are done."""
        return len(self._places)

    def entry(self, passage: str) -> dict[str, Any]:
        """Return what was recorded of a passage."""
        self._journal.seek(self._places[passage])
        return json.loads(self._journal.readline())

    def unanswered(self, passage: str) -> list[int]:
        """Return the numbers of a passage's paraphrases for which there was no answer.

        Those of a passage that is empty, a duplicate or without a paraphrase had none to give.
        """
        rows = self.entry(passage)["rejected"]
        return [r["n"] for r in rows if not r["paraphrase"] and _kind(r["reason"]) not in SETTLED]

    def record(
        self,
        passage: str,
        text: str,
        accepted: list[dict[str, Any]],
        rejected: list[dict[str, Any]],
    ) -> None:
        """Keep what came of a passage: the whole line is written, or nothing of it.

        It takes the place of what was recorded of the passage before.

        Raises:
            OSError: the disk is full; earlier lines stay.
        """
        entry = {"id": passage, "text": text, "accepted": accepted, "rejected": rejected}
        end = self._journal.seek(0, os.SEEK_END)
        try:
            self._journal.write(_line(entry))
            self._journal.flush()
        except OSError:
            os.ftruncate(self._journal.fileno(), end)
            raise
        self._places[passage] = end

    def finish(self, order: Iterable[str], *, is_complete: bool) -> dict[str, Any]:
        """Write the files that are read later, and the manifest; return the manifest's counts.

        Args:
            order: ids of passages in the order of the input; those not done are passed over, and
                what is done and not named follows in the order of its making.
            is_complete: whether the input was read to its end and nothing of it is left.
        """
        os.fsync(self._journal.fileno())
        done = [p for p in dict.fromkeys((*order, *self._places)) if p in self]
        counts, reasons = Counter(read=len(done), texts=0, accepted=0), Counter()
        with _replacing(self.path / PAIRS) as pairs, _replacing(self.path / REJECTED) as rejected:
            for passage in done:
                entry = self.entry(passage)
                counts["accepted"] += len(entry["accepted"])
                counts["texts"] += bool(entry["accepted"])
                reasons.update(_kind(line["reason"]) for line in entry["rejected"])
                for file, key in ((pairs, "accepted"), (rejected, "rejected")):
                    for line in entry[key]:
                        named = {"id": f"{passage}#{line.pop('n')}", "text": entry["text"]}
                        file.write(_line({**named, **line}))
        told = {**counts, "rejected": dict(sorted(reasons.items()))}
        _write_manifest(self.path, self._header, told, is_complete=is_complete)
        return told

    def _load(self) -> None:
        """Find the lines of an earlier run; cut the half one that a killed process left."""
        self._journal.seek(0)
        end = 0
        for line in self._journal:
            try:
                passage = json.loads(line)["id"]
            except (ValueError, KeyError, TypeError):
                if self._journal.read(1):  # only the last line can be torn
                    raise InputError(f"{self.path / JOURNAL}, byte {end}: is damaged") from None
                break
            if not line.endswith(b"\n"):
                break
            self._places[passage] = end
            end += len(line)
        self._journal.truncate(end)


def _check(path: Path, header: Mapping[str, Any]) -> None:
    """Refuse a folder of something else, by the name of the first setting that differs."""
    if not path.is_dir():
        return
    if not (path / MANIFEST).exists():
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise InputError(f"--out {path}: holds other files and no {MANIFEST}; give a new name")
        return
    if not _is_begun(path):
        return  # what was wrong with an earlier call may be put right
    there = read_manifest(path)
    for key in _HEADER:
        if found := _difference(there.get(key), header[key], key):
            name, old, new = found
            raise InputError(
                f"--out {path}: was begun with {name} = {old!r:.80}, not {new!r:.80}; give another "
                "folder, or the same settings to go on"
            )


def _is_begun(path: Path) -> bool:
    """Tell whether anything was done."""
    journal = path / JOURNAL
    return (path / MANIFEST).exists() and journal.exists() and journal.stat().st_size > 0


def _difference(old: Any, new: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if found := _difference(old.get(key), new.get(key), f"{path}.{key}"):
                return found
        return None
    return None if old == new else (path, old, new)


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


def _line(value: Mapping[str, Any]) -> bytes:
    # Half of a character has no bytes; its escape means the same.
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _write_manifest(
    path: Path, header: Mapping[str, Any], counts: Any, *, is_complete: bool
) -> None:
    about = {"code_version": code_version(), "packages": package_versions()}
    write_json(path / MANIFEST, {**header, "counts": counts, "is_complete": is_complete, **about})


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """Open a file that takes the place of `path` when all of it is written."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
