"""Reads one training run's directory into a plain record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidlm import runs
from braidlm.errors import InputError
from braidlm.runs import SCHEMA_VERSION

UNASKED = frozenset({"analysis", "bench", "conformance", "convert", "overlap"})
"""Kinds of results that are of no task: nothing was asked that two runs could be compared by."""


@dataclass(frozen=True)
class Run:
    """One training run: one arm, one seed. `notes` says which files could not be read."""

    path: Path
    seed: int | None
    config: dict[str, Any]
    env: dict[str, Any]
    status: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]  # "<kind>-<name>" -> result file
    notes: tuple[str, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict)
    """What the weights were that it began with; empty if they were drawn."""

    @property
    def is_readable(self) -> bool:
        """Whether the run says what was trained."""
        return bool(self.config)


def is_run(path: Path) -> bool:
    """Whether a folder holds anything of a run."""
    return any((path / name).is_file() for name in ("config.json", "status.json", "metrics.jsonl"))


def seed_folders(arm: Path) -> list[Path]:
    """The runs of one arm of a study, by their seed."""
    return [path for path in sorted(arm.glob("seed-*"), key=_seed_key) if is_run(path)]


def read_run(path: Path, study_note: str = "") -> Run:
    """Read a run; `study_note` is what its study says went wrong with it."""
    config, config_note = read_object(path / "config.json")
    env, env_note = read_object(path / "env.json")
    config, config_note = _sound(config, config_note, _config_fault)
    status, status_note = read_object(path / "status.json")
    if status.get("state") == "running" and not runs.Run(path).is_active():
        status |= {"state": "interrupted", "error": "its process ended without a word"}
    metrics, metrics_note = _json_lines(path / "metrics.jsonl")
    own = str(status.get("error") or "")
    if own and (own in study_note or study_note in own):
        study_note = ""  # the run says it itself
    origin, origin_note = read_object(path / runs.INIT / runs.ORIGIN)
    notes = [study_note, config_note, env_note, status_note, metrics_note, origin_note]
    results = {}
    for file in sorted((path / "results").glob("*.json")):
        result, note = read_object(file)
        if not note:
            check_version(file, result)
            result, note = _sound(result, note, lambda r, f=file: _result_fault(r, f.name))
        notes.append(note)
        if not note:
            results[file.stem] = result
    seed = config.get("seed", _seed_key(path)[0])
    return Run(
        path=path,
        seed=seed if isinstance(seed, int) and seed >= 0 else None,
        config=config,
        env=env,
        status=status,
        metrics=metrics,
        results=results,
        notes=tuple(note for note in notes if note),
        origin=origin,
    )


def read_object(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a file and an empty note; or an empty object and the reason."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, f"{path.name} is missing" if path.name == "config.json" else ""
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path.name} cannot be read: {error}"
    if not isinstance(data, dict):
        return {}, f"{path.name} holds a {type(data).__name__}, not an object"
    return data, ""


def check_version(path: Path, data: dict[str, Any]) -> None:
    """Refuse a file of another schema version.

    Raises:
        InputError: naming the file and both versions.
    """
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"file {str(path)!r} has schema_version {version!r}, this report reads {SCHEMA_VERSION}"
        )


def _seed_key(path: Path) -> tuple[int, str]:
    tail = path.name.removeprefix("seed-")
    return (int(tail) if tail.isdigit() else -1, tail)


def _sound(
    data: dict[str, Any], note: str, fault: Callable[[dict[str, Any]], str]
) -> tuple[dict[str, Any], str]:
    """The same, or an empty object and the fault that was found."""
    found = "" if note else fault(data)
    return ({}, found) if found else (data, note)


def _config_fault(config: dict[str, Any]) -> str:
    for part in ("model", "data", "train"):
        if not isinstance(config.get(part, {}), dict):
            return f"config.json holds no object under '{part}'"
    return ""


def _result_fault(result: dict[str, Any], name: str) -> str:
    """What keeps a result from being shown: parts that are of another kind than the schema says."""
    metrics, tables = result.get("metrics") or {}, result.get("tables") or {}
    if not isinstance(metrics, dict) or not all(
        isinstance(m, dict) and "value" in m for m in metrics.values()
    ):
        return f"{name}: every entry of 'metrics' must be an object with a value"
    if not isinstance(tables, dict) or not all(
        isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        for rows in tables.values()
    ):
        return f"{name}: every entry of 'tables' must be a list of objects"
    if not isinstance(result.get("ops") or {}, dict):
        return f"{name}: 'ops' must be an object"
    if not metrics and "value" not in result:
        return f"{name}: holds no metric"
    return ""


def _json_lines(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The objects of a file; a line cut by a crash is left out and counted."""
    if not path.is_file():
        return [], ""
    rows, n_bad = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            row, n_bad = None, n_bad + 1
        if isinstance(row, dict):
            rows.append(row)
    return rows, f"{path.name} has {n_bad} unreadable line(s)" if n_bad else ""
