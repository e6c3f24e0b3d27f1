"""Run a study: one process per run, several side by side, each resumable by itself.

A run's process is ``braid train`` with the arm's overrides, so that the command in `study.json`
reproduces it alone. An arm that fails is recorded and the others go on.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import IO, Any

from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.study.budget import matched, quantities
from braidlm.study.config import Arm, StudyConfig
from braidlm.study.display import Display, display

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StudySummary:
    """How a study ended."""

    path: Path
    states: dict[str, str]
    """State of each run: done, failed, interrupted or waiting."""

    @property
    def is_complete(self) -> bool:
        """Whether every run is done."""
        return all(state == "done" for state in self.states.values())


@dataclass
class _Job:
    """One run of one arm."""

    name: str
    folder: Path
    command: list[str]
    results: list[str]
    state: str = "waiting"
    error: str | None = None


@dataclass
class _Book:
    """`study.json`, rewritten whenever a run changes its state."""

    path: Path
    head: dict[str, Any]
    jobs: list[_Job]
    lock: Lock = field(default_factory=Lock)

    def write(self) -> None:
        """Replace the file."""
        with self.lock:
            runs = {
                job.name: {
                    "state": job.state,
                    "error": job.error,
                    "command": shlex.join(["braid", *job.command]),
                }
                for job in self.jobs
            }
            write_json(self.path, {**self.head, "runs": runs})


def run_study(
    study_file: Path,
    out: Path,
    *,
    resume: bool = False,
    is_silent: bool = False,
    command: Sequence[str] = (),
) -> StudySummary:
    """Run every arm with every seed; skip what is done, continue what was interrupted.

    Args:
        study_file: the study's TOML file.
        out: the study's folder; each run lies in ``<arm>/seed-<n>``.
        resume: whether `out` may hold this study already.
        is_silent: whether no progress is shown.
        command: the command line, recorded for the report.

    Returns:
        The state of every run. Interrupting (Ctrl-C) asks the runs to save and stop, then raises
        KeyboardInterrupt.

    Raises:
        InputError: for a bad study file, an arm that cannot be, or a folder of something else.
    """
    config = StudyConfig.load(study_file)
    n_slots = min(config.jobs or os.cpu_count() or 1, len(config.arms) * len(config.seeds))
    n_threads = max(1, (os.cpu_count() or 1) // n_slots)
    jobs = _plan(config, study_file, out, n_threads)
    head = _head(config, study_file, command)
    _check_folder(out, head, resume)
    out.mkdir(parents=True, exist_ok=True)
    book = _Book(out / "study.json", head, jobs)
    for job in jobs:
        job.state = "done" if _is_done(job) else "waiting"
    book.write()
    shown = display(sum(j.state != "done" for j in jobs), n_slots, is_silent=is_silent)
    try:
        _Runner(book, n_slots, shown).run()
    finally:
        shown.close()
    return StudySummary(out, {job.name: job.state for job in jobs})


def _plan(config: StudyConfig, study_file: Path, out: Path, n_threads: int) -> list[_Job]:
    """List the runs, all arms of one seed before the next seed."""
    jobs = []
    for seed in config.seeds:
        for arm in config.arms:
            recipe = config.recipe_of(arm, seed, study_file.parent)
            overrides = list(config.overrides(arm, seed))
            if recipe.train.threads == 0:
                overrides.append(f"train.threads={n_threads}")
            folder = out / arm.name / f"seed-{seed}"
            command = ["train", str(study_file.parent / config.recipe), "--out", str(folder)]
            for text in overrides:
                command += ["--set", text]
            results = [f"{task.kind}-{task.name}.json" for task in recipe.tasks]
            jobs.append(_Job(f"{arm.name}/seed-{seed}", folder, command, results))
    return jobs


def _head(config: StudyConfig, study_file: Path, command: Sequence[str]) -> dict[str, Any]:
    """Return the part of `study.json` that does not change while the study runs."""
    budgets = {
        arm.name: quantities(
            config.recipe_of(arm, config.seeds[0], study_file.parent), config.context
        )
        for arm in config.arms
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "description": config.description,
        "matched": matched(budgets),
        "quantities": budgets,
        "context": config.context,
        "arms": [_arm_row(config, arm) for arm in config.arms],
        "seeds": list(config.seeds),
        "command": shlex.join(command),
    }


def _arm_row(config: StudyConfig, arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "label": arm.label or arm.name,
        "overrides": [*config.set, *arm.set],
    }


def _check_folder(out: Path, head: dict[str, Any], resume: bool) -> None:
    """Refuse a folder that holds something else, or this study without leave to continue it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; a study needs a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "study.json").exists():
        raise InputError(f"--out {out}: holds something else than a study; choose a new folder")
    if not resume:
        raise InputError(f"--out {out}: holds a study already; add --resume to continue it")
    before = read_json(out / "study.json")
    for key in ("arms", "quantities"):
        if before.get(key) != head[key]:
            raise InputError(
                f"--out {out}: was made with other {key}; choose a new folder, "
                "or give the study file its earlier form"
            )


def _is_done(job: _Job) -> bool:
    """Whether a run has trained to its end and has every result."""
    with suppress(InputError, OSError):
        trained = read_json(job.folder / "status.json").get("state") == "done"
        return trained and all((job.folder / "results" / name).exists() for name in job.results)
    return False


class _Runner:
    """The processes under way. `stop` asks each of them, once, to save and end."""

    def __init__(self, book: _Book, n_slots: int, shown: Display) -> None:
        self.book = book
        self.shown = shown
        self.n_slots = n_slots
        self.slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(n_slots):
            self.slots.put(slot)
        self.live: set[subprocess.Popen[str]] = set()
        self.is_stopping = False
        self.lock = Lock()

    def run(self) -> None:
        """Run every job that is not done."""
        waiting = [job for job in self.book.jobs if job.state != "done"]
        with ThreadPoolExecutor(self.n_slots) as pool:
            futures = [pool.submit(self._run_one, job) for job in waiting]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Start nothing more and ask what runs to save and end."""
        with self.lock:
            self.is_stopping = True
            for process in self.live:
                process.terminate()

    def _run_one(self, job: _Job) -> None:
        """Run one process in a free slot."""
        if self.is_stopping:
            return
        slot = self.slots.get()
        try:
            job.state = "running"
            self.book.write()
            self.shown.start(slot, job.name)
            code, last_words = self._process(job, slot)
            ended = "interrupted" if self.is_stopping or code == 130 else "failed"
            job.state = "done" if code == 0 else ended
            job.error = last_words if job.state == "failed" else None
            self.shown.finish(slot, job.name, f"failed ({job.error})" if job.error else job.state)
            self.book.write()
        finally:
            self.slots.put(slot)

    def _process(self, job: _Job, slot: int) -> tuple[int, str]:
        """Run ``braid train``; return its exit code and the last line that it wrote to stderr."""
        log = job.folder.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            process = self._launch(job, errors)
            assert process.stdout is not None
            for line in process.stdout:
                with suppress(json.JSONDecodeError):
                    self.shown.update(slot, job.name, json.loads(line))
            code = process.wait()
        with self.lock:
            self.live.discard(process)
        lines = log.read_text(errors="replace").strip().splitlines()
        return code, lines[-1] if lines else f"exit code {code}, see {log.name}"

    def _launch(self, job: _Job, errors: IO[str]) -> subprocess.Popen[str]:
        """Start the process in a session of its own: Ctrl-C then reaches the runner alone."""
        resume = ["--resume"] if (job.folder / "config.json").exists() else []
        process = subprocess.Popen(
            [sys.executable, "-m", "braidlm", *job.command, "--progress", "json", *resume],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        with self.lock:
            self.live.add(process)
            if self.is_stopping:
                process.terminate()
        return process
