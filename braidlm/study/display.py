"""What a person sees while a study runs: a line per run under way, and one for the whole."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Protocol, TextIO

from braidlm.study.eta import Account, Live, Work

__all__ = ["Bars", "Display", "Lines", "Silent", "Work", "display"]


class Display(Protocol):
    """What the runner tells; every method may be called from any thread."""

    def start(self, run: str) -> None:
        """A run begins."""
        ...

    def update(self, run: str, event: dict[str, Any]) -> None:
        """A run reports its step, loss and speed, or the task that it is at."""
        ...

    def finish(self, run: str, state: str, error: str | None) -> None:
        """A run has ended in this state."""
        ...

    def say(self, text: str) -> None:
        """Something happened to the study as a whole."""
        ...

    def tick(self) -> None:
        """A moment has passed."""
        ...

    def close(self) -> None:
        """The study has ended."""
        ...


def display(
    name: str,
    work: Mapping[str, Work],
    n_slots: int,
    *,
    n_done: int = 0,
    is_silent: bool = False,
) -> Display:
    """Return bars for a terminal, lines for a log, or nothing.

    Args:
        name: of the study.
        work: the runs that are still to be done.
        n_slots: runs at a time.
        n_done: runs that earlier sessions have done.
        is_silent: whether nothing is shown.
    """
    if is_silent:
        return Silent()
    shown = (Bars if sys.stderr.isatty() else Lines)(name, work, n_slots)
    shown.n_done = n_done
    return shown


class Silent:
    """Says nothing."""

    def start(self, run: str) -> None:
        """Say nothing."""

    def update(self, run: str, event: dict[str, Any]) -> None:
        """Say nothing."""

    def finish(self, run: str, state: str, error: str | None) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def tick(self) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class _Shown:
    """What bars and lines have in common: the account, the lock, the stream."""

    def __init__(
        self,
        name: str,
        work: Mapping[str, Work],
        n_slots: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.account = Account(work, n_slots, clock)
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.n_done = 0
        self.lock = Lock()
        self.width = max(map(len, work), default=0)

    def summary(self) -> str:
        """Return how the study as a whole stands."""
        states = list(self.account.states.values())
        done, total = (self.n_done + n for n in (states.count("done"), len(self.account.work)))
        parts = [f"{done}/{total} runs done"]
        for state in ("failed", "interrupted"):
            if state in states:
                parts.append(f"{states.count(state)} {state}")
        parts.append(f"{duration(self.clock() - self.account.began)} elapsed")
        left = self.account.study_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return f"{self.name}: {', '.join(parts)}"

    def words(self, live: Live) -> str:
        """Return what a run is at, behind its name."""
        event, left = live.event, self.account.left(live.name)
        if live.evaluates_since is not None:
            return _evaluating(live, left)
        if live.trains_since is None:
            return "starting"
        parts = [f"{live.step:>{len(str(live.steps))}}/{live.steps}"]
        if event.get("loss") is not None:
            parts.append(f"loss {event['loss']:.4f}")
        if event.get("tokens_per_sec"):
            parts.append(f"{event['tokens_per_sec']:,.0f} tokens/s")
        if left is not None:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def ended(self, run: str, state: str, error: str | None, seconds: float) -> str:
        """Return the line that tells the end of a run."""
        because = f": {error}" if error else ""
        return f"{run:<{self.width}}  {state} after {duration(seconds)}{because}"


class Bars(_Shown):
    """A block of lines at the foot of a terminal, drawn anew in place; what ended stays above."""

    redraw_sec = 0.1

    def __init__(
        self,
        name: str,
        work: Mapping[str, Work],
        n_slots: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, work, n_slots, stream, clock)
        self.n_drawn = 0
        self.drawn_at = -self.redraw_sec

    def start(self, run: str) -> None:
        """Give the run a line."""
        with self.lock:
            self.account.start(run)
            self._draw()

    def update(self, run: str, event: dict[str, Any]) -> None:
        """Move the run's bar."""
        with self.lock:
            self.account.update(run, event)
            self._draw_soon()

    def finish(self, run: str, state: str, error: str | None) -> None:
        """Take the run's line away; leave a line above the block that tells how it ended."""
        with self.lock:
            seconds = self.account.finish(run, state)
            self._draw(above=self.ended(run, state, error, seconds))

    def say(self, text: str) -> None:
        """Leave a line above the block."""
        with self.lock:
            self._draw(above=text)

    def tick(self) -> None:
        """Let the times go on."""
        with self.lock:
            self._draw_soon()

    def close(self) -> None:
        """Take the block away."""
        with self.lock:
            self._write(self._erase())
            self.n_drawn = 0

    def lines(self, columns: int, rows: int) -> list[str]:
        """Return the block, no wider than the terminal and lower than it."""
        live = list(self.account.live.values())
        room = max(1, rows - 3)
        lines = [self.summary(), *(self._line(run) for run in live[:room])]
        if len(live) > room:
            lines.append(f"  and {len(live) - room} more")
        return [line[: columns - 1] for line in lines]

    def _line(self, live: Live) -> str:
        done, total = live.step, live.steps
        if live.task:
            done, total = live.event.get("step", 0), live.event.get("steps", 0)
        elif live.evaluates_since is not None:
            done, total = 1, 1
        percent = f"{100 * done // max(total, 1):3d}%"
        return f"  {live.name:<{self.width}}  {percent} {bar(done, total, 16)} {self.words(live)}"

    def _draw_soon(self) -> None:
        if self.clock() - self.drawn_at >= self.redraw_sec:
            self._draw()

    def _draw(self, above: str = "") -> None:
        """Write the whole block at once: nothing flickers."""
        size = shutil.get_terminal_size()
        lines = self.lines(size.columns, size.lines)
        text = self._erase() + (f"{above}\n" if above else "") + "\n".join(lines) + "\n"
        self._write(text)
        self.n_drawn, self.drawn_at = len(lines), self.clock()

    def _erase(self) -> str:
        """Go back to where the block begins and clear what is below."""
        return f"\x1b[{self.n_drawn}A\x1b[J" if self.n_drawn else ""

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class Lines(_Shown):
    """A line when a run begins and ends; between, one when there is something new to tell."""

    least_sec = 20.0
    most_sec = 300.0
    least_share = 0.05

    def __init__(
        self,
        name: str,
        work: Mapping[str, Work],
        n_slots: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, work, n_slots, stream, clock)
        self.spoke: dict[str, tuple[float, int]] = {}

    def start(self, run: str) -> None:
        """Say which run begins."""
        with self.lock:
            self.account.start(run)
            self.spoke[run] = (self.clock(), 0)
            self._print(f"{run}: starts")

    def update(self, run: str, event: dict[str, Any]) -> None:
        """Say how far the run is: after 20 s and 5 % of its steps, or else after 5 minutes."""
        with self.lock:
            live = self.account.update(run, event)
            since, step = self.spoke[run]
            silent_sec = self.clock() - since
            is_news = live.step - step >= self.least_share * live.steps
            if silent_sec >= (self.least_sec if is_news else self.most_sec):
                self.spoke[run] = (self.clock(), live.step)
                self._print(f"{run}: {self.words(live).strip()}; {self.summary()}")

    def finish(self, run: str, state: str, error: str | None) -> None:
        """Say how the run ended."""
        with self.lock:
            seconds = self.account.finish(run, state)
            self._print(f"{self.ended(run, state, error, seconds)}; {self.summary()}")

    def say(self, text: str) -> None:
        """Say it."""
        with self.lock:
            self._print(text)

    def tick(self) -> None:
        """A log does not move by itself."""

    def close(self) -> None:
        """Nothing is left to say."""

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def bar(done: int, total: int, width: int) -> str:
    """Return a bar of `width` characters, filled in proportion."""
    filled = width * done // max(total, 1)
    return "━" * filled + "─" * (width - filled)


def duration(seconds: float) -> str:
    """Return a time such as 0:07, 12:05 or 3:00:09."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def _evaluating(live: Live, left: float | None) -> str:
    text = f"evaluating {live.task}".strip()
    return text if left is None else f"{text}  {duration(left)} left"
