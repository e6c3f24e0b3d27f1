"""The processes of a study: started side by side, listened to, stopped together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock
from typing import IO

from braidlm.study.book import Book
from braidlm.study.display import Display
from braidlm.study.keeping import forget_weights
from braidlm.study.machine import Share
from braidlm.study.plan import Job
from braidlm.study.signals import StopSignals

PROGRAM = (sys.executable, "-m", "braidlm")
"""What runs a job: `braid`, by the Python that runs the study."""

_POLL_SEC = 0.2
_STOPPED = (130, -signal.SIGTERM, -signal.SIGINT)


class Runner:
    """The runs under way. `stop` asks each of them to save and end; `kill` ends them."""

    def __init__(self, book: Book, share: Share, shown: Display) -> None:
        self.book = book
        self.share = share
        self.shown = shown
        self.slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(share.n_slots):
            self.slots.put(slot)
        self.live: set[subprocess.Popen[str]] = set()
        self.is_stopping = self.is_killing = False
        self.lock = Lock()

    def run(self) -> None:
        """Run every job that is not done.

        A first signal lets every run save and end, a second one kills them.

        Raises:
            KeyboardInterrupt: a signal came; every process has ended.
            OSError: a file cannot be written; every process has been stopped.
        """
        waiting = [job for job in self.book.jobs if job.state != "done"]
        problem: BaseException | None = None
        with StopSignals() as signals, ThreadPoolExecutor(self.share.n_slots) as pool:
            pending: set[Future[None]] = set()
            while True:
                waiting, ready = _ready(waiting)
                pending |= {pool.submit(self._run_one, job) for job in ready}
                if not pending:
                    break
                ended, pending = wait(pending, _POLL_SEC, FIRST_COMPLETED)
                problem = problem or next((e for f in ended if (e := f.exception())), None)
                if signals.count or problem:
                    self.stop()
                if signals.count > 1:
                    self.kill()
                self.shown.tick()
        self._excuse(waiting)
        if problem:
            raise problem
        if signals.count:
            raise KeyboardInterrupt

    def _excuse(self, left: list[Job]) -> None:
        """Say of runs that never started that their base failed."""
        for job in left:
            if job.after is not None and job.after.state == "failed":
                job.error = f"its base {job.after.name} failed"
        if left:
            self.book.write()

    def stop(self) -> None:
        """Start nothing more and ask, once, what runs to save and end."""
        with self.lock:
            if not self.is_stopping:
                self.is_stopping = True
                for process in self.live:
                    process.terminate()
                self.shown.say("stopping: each run saves and ends (press again to kill them)")

    def kill(self) -> None:
        """End what runs at once, whatever is lost; a checkpoint that was complete stays."""
        with self.lock:
            if not self.is_killing:
                self.is_killing = True
                for process in self.live:
                    process.kill()

    def _run_one(self, job: Job) -> None:
        """Run one process in a free slot."""
        if self.is_stopping:
            return
        slot = self.slots.get()
        try:
            job.state, job.error = "running", None
            self.shown.start(job.name)
            code, last_words = self._process(job, slot)
            job.state, job.error = self._outcome(code, last_words, job)
            job.pid = None
            if job.state == "done":
                forget_weights(job.folder, job.keep)
            self.shown.finish(job.name, job.state, job.error)
            self.book.write()
        finally:
            self.slots.put(slot)

    def _outcome(self, code: int, last_words: str, job: Job) -> tuple[str, str | None]:
        """Return the state of a run and the sentence that explains a failure."""
        if code == 0:
            return "done", None
        if code in _STOPPED or self.is_killing:
            return "interrupted", None
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", by hand or for want of memory" if code == -signal.SIGKILL else ""
            return "failed", f"its process was ended by {name}{hint}"
        return "failed", last_words or f"exit code {code} without a word, see {job.log.name}"

    def _process(self, job: Job, slot: int) -> tuple[int, str]:
        """Run the job's command; return its exit code and its last line on standard error."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a+", encoding="utf-8", errors="replace") as log:
            begin = log.seek(0, os.SEEK_END)
            process = self._launch(job, slot, log)
            job.pid = process.pid
            try:
                self.book.write()
                self._listen(process, job)
            finally:
                code = self._reap(process)
            log.seek(begin)
            lines = log.read().strip().splitlines()
        return code, lines[-1].strip().removeprefix("braid: ") if lines else ""

    def _listen(self, process: subprocess.Popen[str], job: Job) -> None:
        """Pass on what the process reports, until it closes its output."""
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict):
                    self.shown.update(job.name, event)

    def _reap(self, process: subprocess.Popen[str]) -> int:
        """Wait for the end of a process. Its output is closed: whatever it still says ends it."""
        assert process.stdout is not None
        process.stdout.close()
        code = process.wait()
        with self.lock:
            self.live.discard(process)
        return code

    def _launch(self, job: Job, slot: int, log: IO[str]) -> subprocess.Popen[str]:
        """Start the process in a session of its own: Ctrl-C then reaches the runner alone."""
        resume = ["--resume"] if (job.folder / "config.json").exists() else []
        gpus = self.share.gpus
        place = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        with self.lock:
            process = subprocess.Popen(
                [*PROGRAM, *job.command, "--progress", "json", *resume],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **place},
                start_new_session=True,
            )
            self.live.add(process)
            if self.is_stopping:
                process.terminate()
        return process


def _ready(jobs: list[Job]) -> tuple[list[Job], list[Job]]:
    """Part runs whose base is not done from those that can start."""
    ready = [job for job in jobs if job.after is None or job.after.state == "done"]
    return [job for job in jobs if job not in ready], ready
