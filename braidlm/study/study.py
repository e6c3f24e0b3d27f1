"""A study from its file to its last run.

A run's process is ``braid train`` with the arm's overrides, so that the command in `study.json`
reproduces it alone. An arm that fails is recorded and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.runs import Run
from braidlm.study import bases
from braidlm.study import book as books
from braidlm.study.budget import Quantities, check_matched, quantities
from braidlm.study.config import StudyConfig
from braidlm.study.display import Work, display
from braidlm.study.machine import Share, share
from braidlm.study.matching import as_rows
from braidlm.study.plan import (
    Job,
    check_files,
    check_outcomes,
    check_unchanged,
    fill_commands,
    is_done,
    plan,
    share_left,
)
from braidlm.study.rehearsal import rehearsed
from braidlm.study.runner import Runner

ORPHAN_SEC = 15.0
"""How long a continued study waits for runs whose own study was killed; they end by themselves."""


@dataclass(frozen=True)
class StudySummary:
    """How a study ended."""

    path: Path
    states: dict[str, str]
    """State of each run: done, failed, interrupted or waiting."""
    errors: dict[str, str]
    """Of each failed run: what happened, in one sentence."""
    matched: tuple[str, ...]
    """Quantities in which all arms agree within 1 %."""

    @property
    def is_complete(self) -> bool:
        """Whether every run is done."""
        return all(state == "done" for state in self.states.values())


def run_study(
    study_file: Path,
    out: Path,
    *,
    resume: bool = False,
    jobs: int | None = None,
    is_silent: bool = False,
    command: Sequence[str] = (),
    rehearse: bool = False,
) -> StudySummary:
    """Run every arm with every seed; skip what is done, continue what was interrupted.

    Args:
        study_file: the study's TOML file.
        out: the study's folder; each run lies in ``<arm>/seed-<n>``.
        resume: whether `out` may hold this study already.
        jobs: runs at a time, instead of the study file's number; 0: as many as fit the machine.
        is_silent: whether no progress is shown.
        command: the command line, recorded for the report.
        rehearse: whether to run it at its smallest, see `rehearsal.rehearsed`.

    Returns:
        The state of every run.

    Raises:
        InputError: for a bad study file, an arm that cannot be, arms that do not match as the
            study requires, or a folder that is in use, holds something else or a changed study.
        KeyboardInterrupt: a signal came; the runs have saved and ended.
        OSError: a file cannot be written; the runs have saved and ended.
    """
    study_file = Path(study_file)
    config = StudyConfig.load(study_file)
    return run_config(
        rehearsed(config, study_file.parent) if rehearse else config,
        study_file.parent,
        Path(out),
        resume=resume,
        jobs=jobs,
        is_silent=is_silent,
        command=command,
    )


def run_config(
    config: StudyConfig,
    folder: Path,
    out: Path,
    *,
    resume: bool = False,
    jobs: int | None = None,
    is_silent: bool = False,
    command: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> StudySummary:
    """Run a study that is declared already; arguments and errors as for `run_study`.

    Args:
        config: the study.
        folder: where its recipe's path starts.
        extra: more for `study.json`.
    """
    config, changes = bases.settle(config, folder)
    planned = plan(config, folder, out)
    check_outcomes(config, planned)
    check_files(planned)
    budgets = _budgets(config, planned)
    check_matched(budgets, config.require_matched)
    before = books.read_before(out, resume)
    part = _divide(planned, config.jobs if jobs is None else jobs, before)
    fill_commands(planned, config, folder, part.n_threads)
    if before is not None:
        books.check_grown(before, config, out)
        for job in planned:
            check_unchanged(job)
    out.mkdir(parents=True, exist_ok=True)
    with _held(out):
        if books.read_before(out, resume) != before:
            raise InputError(f"--out {out}: another process has run this study just now; try again")
        head = books.head(config, budgets, part, command, before)
        head |= as_rows(config, changes) | bases.rows(config) | dict(extra or {})
        book = books.Book(out, head, planned)
        for job in planned:
            job.state = "done" if is_done(job) else "waiting"
        _wait_for_orphans([j for j in planned if j.state != "done"], before or {})
        book.write()
        _run(book, part, config.context, is_silent)
    return StudySummary(
        path=out,
        states={job.name: job.state for job in planned},
        errors={job.name: job.error for job in planned if job.error},
        matched=tuple(book.head["matched"]),
    )


def _budgets(config: StudyConfig, jobs: list[Job]) -> dict[str, Quantities]:
    """Return the quantities of each arm, the training of its base included; its seeds share them.

    What was spent on a base that is given is unknown and not counted.
    """
    first = {job.arm: job for job in reversed(jobs)}
    found = {}
    for arm in config.arms:
        job = first[arm.name]
        found[arm.name] = quantities(job.recipe, config.context)
        if job.after is not None:
            spent = quantities(job.after.recipe, config.context)
            for name in ("training tokens", "training FLOPs"):
                found[arm.name][name] += spent[name]
    return found


def _divide(jobs: list[Job], n_jobs: int, before: dict[str, Any] | None) -> Share:
    """Divide the machine; a continued study keeps its number of threads, and so its bits.

    Raises:
        InputError: a negative number of jobs.
    """
    if n_jobs < 0:
        raise InputError(f"--jobs {n_jobs}: must be 0 (as many as fit the machine) or more")
    part = share([job.recipe for job in jobs], n_jobs)
    return replace(part, n_threads=(before or {}).get("threads", part.n_threads))


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the study's folder: two runners would start every run twice.

    Raises:
        InputError: another process runs this study.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(Run(out).lock())
        except InputError:
            # A study that begins this moment has not yet written who it is.
            book = read_json(out / books.FILE) if (out / books.FILE).exists() else {}
            sessions = book.get("sessions") or [{}]
            pid = sessions[-1].get("pid")
            who = f"process {pid}" if pid else "another process"
            raise InputError(
                f"--out {out}: {who} is running this study; let it end or stop it"
            ) from None
        yield


def _wait_for_orphans(
    jobs: list[Job], before: dict[str, Any], clock: Callable[[], float] = time.monotonic
) -> None:
    """Give runs that outlived a killed study the time to end.

    They notice at their next report that nobody listens.

    Raises:
        InputError: naming a run that is still held, and by which process.
    """
    began = clock()
    for job in jobs:
        while _is_held(job.folder):
            if clock() - began > ORPHAN_SEC:
                pid = before.get("runs", {}).get(job.name, {}).get("pid")
                who = f"process {pid} of an earlier session" if pid else "another process"
                advice = (
                    f"wait until it ends, or stop it with `kill {pid}`" if pid else "let it end"
                )
                raise InputError(f"{job.folder} is in use: {who} is training it; {advice}")
            time.sleep(0.1)


def _is_held(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        with Run(folder).lock():
            return False
    except InputError:
        return True


def _run(book: books.Book, part: Share, context: int, is_silent: bool) -> None:
    """Run what is not done and show it."""
    flops = {job.arm: float(quantities(job.recipe, context)["training FLOPs"]) for job in book.jobs}
    work = {
        job.name: Work(flops[job.arm], share_left(job)) for job in book.jobs if job.state != "done"
    }
    if not work:
        return
    n_done = len(book.jobs) - len(work)
    shown = display(book.head["name"], work, part.n_slots, n_done=n_done, is_silent=is_silent)
    try:
        Runner(book, part, shown).run()
    finally:
        shown.close()
