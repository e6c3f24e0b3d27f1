"""`study.json`: what a study is, who runs it, and how each of its runs stands."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.provenance import code_version, now
from braidlm.study.budget import Quantities, matched
from braidlm.study.config import Arm, Base, StudyConfig
from braidlm.study.machine import Share
from braidlm.study.plan import Job

SCHEMA_VERSION = 1
FILE = "study.json"


class Book:
    """`study.json`, rewritten whenever a run changes its state; any thread may ask for it."""

    def __init__(self, out: Path, head: dict[str, Any], jobs: list[Job]) -> None:
        self.path = out / FILE
        self.head = head
        self.jobs = jobs
        self._lock = Lock()

    def write(self) -> None:
        """Replace the file."""
        with self._lock:
            runs = {job.name: _row(job) for job in self.jobs}
            write_json(self.path, {**self.head, "runs": runs})


def _row(job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "error": job.error,
        "pid": job.pid,
        "log": str(job.log),
        "command": shlex.join(["braid", *job.command]),
    }


def head(
    config: StudyConfig,
    budgets: dict[str, Quantities],
    part: Share,
    command: Sequence[str],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the part of `study.json` that does not change while this session runs.

    Args:
        config: the study.
        budgets: the quantities of each arm.
        part: how the machine is divided.
        command: the command line of this session.
        before: what `study.json` held, when the study is continued.
    """
    before = before or {}
    session = {
        "command": shlex.join(command),
        "pid": os.getpid(),
        "started_at": now(),
        "code_version": code_version(),
        "jobs": part.n_slots,
        "gpus": list(part.gpus),
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "description": config.description,
        "matched": matched(budgets),
        "require_matched": list(config.require_matched),
        "quantities": budgets,
        "context": config.context,
        "keep": config.keep,
        "arms": [_arm_row(config, arm) for arm in config.arms],
        "seeds": list(config.seeds),
        "threads": part.n_threads,
        "cwd": before.get("cwd", os.getcwd()),
        "command": before.get("command", session["command"]),
        "sessions": [*before.get("sessions", []), session],
    }


def _arm_row(config: StudyConfig, arm: Arm) -> dict[str, Any]:
    row = {
        "name": arm.name,
        "label": arm.label or arm.name,
        "overrides": list(config.declared(arm)),
    }
    base = _base_of(config, arm)
    return row if base is None else {**row, "base": base}


def read_before(out: Path, resume: bool) -> dict[str, Any] | None:
    """Return the `study.json` of a study to continue; None for a new one.

    Raises:
        InputError: `out` holds something else, or a study without leave to continue it.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; a study needs a folder")
    if not out.exists() or all(entry.name.startswith(".") for entry in out.iterdir()):
        return None
    if not (out / FILE).exists():
        raise InputError(f"--out {out}: holds something else than a study; choose a new folder")
    if not resume:
        raise InputError(f"--out {out}: holds a study already; add --resume to continue it")
    before = read_json(out / FILE)
    version = before.get("schema_version") if isinstance(before, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{out / FILE}: schema_version = {version!r}; this version reads {SCHEMA_VERSION}"
        )
    if altered := [field for field in before if not _is_sound(field, before[field])]:
        raise InputError(
            f"{out / FILE}: '{altered[0]}' is not of the form that a study writes; "
            "choose a new folder, or put it right"
        )
    return before


def _is_sound(field: str, value: Any) -> bool:
    """Whether a field of study.json has the parts that are read when a study goes on."""
    if field in ("seeds", "sessions", "arms", "bases") and not isinstance(value, list):
        return False
    match field:
        case "name" | "cwd" | "command":
            return isinstance(value, str)
        case "threads":
            return isinstance(value, int) and value > 0
        case "seeds":
            return all(type(seed) is int for seed in value)
        case "arms" | "bases":
            return all(
                isinstance(arm, dict)
                and isinstance(arm.get("name"), str)
                and isinstance(arm.get("overrides"), list)
                for arm in value
            )
        case "runs":
            return isinstance(value, dict) and all(
                isinstance(run, dict) and isinstance(run.get("pid", 0), int | None)
                for run in value.values()
            )
    return True


def check_grown(before: dict[str, Any], config: StudyConfig, out: Path) -> None:
    """Refuse a study that is another one, or has lost or changed an arm or a seed.

    Arms and seeds may be added: every run is a function of its own recipe alone.

    Raises:
        InputError: naming what differs.
    """
    advice = "choose a new folder, or give the study file its earlier form"
    name = before.get("name")
    if name != config.name:
        raise InputError(f"--out {out}: holds the study '{name}', not '{config.name}'; {advice}")
    lost = [seed for seed in before.get("seeds", []) if seed not in config.seeds]
    if lost:
        raise InputError(
            f"--out {out}: seed {lost[0]!s:.40} is no longer in the study file; {advice}"
        )
    for what, parts in (("bases", config.bases), ("arms", config.arms)):
        known = {part.name: part for part in parts}
        for row in before.get(what, []):
            _check_part(row, known.get(row["name"]), config, f"--out {out}: {what[:-1]}", advice)


def _check_part(
    row: dict[str, Any], part: Arm | Base | None, config: StudyConfig, where: str, advice: str
) -> None:
    """Refuse an arm or a base that is gone or has become another one."""
    if part is None:
        raise InputError(f"{where} '{row['name']:.60}' is no longer in the study file; {advice}")
    now = list(config.declared(part))
    if now != row["overrides"]:
        raise InputError(
            f"{where} '{row['name']}' was made with {row['overrides']!s:.200} and now has {now}; "
            f"{advice}"
        )
    begin = {"init": part.init} if isinstance(part, Base) else {"base": _base_of(config, part)}
    for field, value in begin.items():
        if row.get(field) != value:
            raise InputError(
                f"{where} '{row['name']}': {field} = {value!r}, but it was started with "
                f"{row.get(field)!r}; {advice}"
            )


def _base_of(config: StudyConfig, arm: Arm) -> str | None:
    return next(iter(config.bases_of(arm)), None)
