"""How far a task is: a bar on one line of standard error, with items per second."""

from __future__ import annotations

import sys
import time

_WIDTH = 24
_REDRAW_SEC = 0.1
_SAY_SEC = 20.0


class TaskBar:
    """Draws ``name [####----] 12/40  3.1 items/s  9 s left``; called as `evaluate` tells."""

    def __init__(self) -> None:
        self._task = ""
        self._began = self._drawn = 0.0
        self._first = 0

    def __call__(self, task: str, done: int, total: int) -> None:
        """Draw, at most ten times a second but for the last item."""
        now = time.monotonic()
        if task != self._task:
            # Items of the first batch count from its end: nothing tells when it began.
            self._task, self._began, self._first, self._drawn = task, now, done, 0.0
        if now - self._drawn < _REDRAW_SEC and done < total:
            return
        self._drawn = now
        print(f"\r{self._line(done, total, now)}", end="", file=sys.stderr)
        print("\n" if done == total else "", end="", file=sys.stderr, flush=True)

    def _line(self, done: int, total: int, now: float) -> str:
        filled = _WIDTH * done // max(total, 1)
        line = f"{self._task} [{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{total}"
        seconds = now - self._began
        if done > self._first and seconds > 0:
            speed = (done - self._first) / seconds
            line += f"  {speed:.1f} items/s  {(total - done) / speed:.0f} s left"
        return f"{line:<79}"


class TaskLines:
    """Says ``name: 12 of 40 in 34 s`` where no terminal is: a log that is watched, a job.

    A line comes every twenty seconds, and when a task that took as long is done: what is quick
    says nothing.
    """

    def __init__(self) -> None:
        self._task = ""
        self._began = self._heard = self._said = time.monotonic()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Say a line, if it is time."""
        now = time.monotonic()
        if task != self._task:
            # Its first items are told when they are done: it began when the last one ended.
            self._task, self._began = task, self._heard
        self._heard = now
        is_done = done == total and now - self._began >= _SAY_SEC
        if now - self._said < _SAY_SEC and not is_done:
            return
        self._said = now
        print(
            f"{task}: {done} of {total} in {now - self._began:.0f} s", file=sys.stderr, flush=True
        )


class Counter:
    """Says how many passages are done: one line that is drawn again on a terminal, which ends
    with the work however that ends; elsewhere a line every twenty seconds, and at the end."""

    def __init__(self) -> None:
        self._is_drawn = sys.stderr.isatty()
        self._said = time.monotonic()
        self._line = ""

    def __call__(self, done: int, accepted: int) -> None:
        """Say how far it is, if it is time."""
        self._line = f"{done:,} passages done, {accepted:,} paraphrases accepted in this run"
        if self._is_drawn:
            print(f"\r{self._line:<79}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._said >= _SAY_SEC:
            self._say()

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_drawn and self._line:
            print(file=sys.stderr, flush=True)
        elif self._line:
            self._say()

    def _say(self) -> None:
        print(self._line, file=sys.stderr, flush=True)
        self._said, self._line = time.monotonic(), ""


def progress(is_json: bool) -> TaskBar | TaskLines | None:
    """Return what tells how far tasks are: a bar on a terminal, else lines; nothing beside JSON."""
    if is_json:
        return None
    return TaskBar() if sys.stderr.isatty() else TaskLines()
