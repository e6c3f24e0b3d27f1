"""What a person sees while a study runs: a bar per run under way, and one for the whole."""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import Any, Protocol

from tqdm import tqdm

_BAR = (
    "{desc:<28.28} {percentage:3.0f}%|{bar:16}| "
    "{n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
)
_QUIET_SECONDS = 20.0


class Display(Protocol):
    """What the runner tells; every method may be called from any thread."""

    def start(self, slot: int, run: str) -> None:
        """A run begins in this slot."""
        ...

    def update(self, slot: int, run: str, event: dict[str, Any]) -> None:
        """A run reports its step, loss and speed, or the task that it is at."""
        ...

    def finish(self, slot: int, run: str, state: str) -> None:
        """A run has ended in this state."""
        ...

    def close(self) -> None:
        """The study has ended."""
        ...


def display(n_runs: int, n_slots: int, *, is_silent: bool = False) -> Display:
    """Return bars for a terminal, lines for a log, or nothing."""
    if is_silent:
        return Silent()
    return Bars(n_runs, n_slots) if sys.stderr.isatty() else Lines(n_runs)


class Silent:
    """Says nothing."""

    def start(self, slot: int, run: str) -> None:
        """Say nothing."""

    def update(self, slot: int, run: str, event: dict[str, Any]) -> None:
        """Say nothing."""

    def finish(self, slot: int, run: str, state: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class Bars:
    """One bar for the study and one for each slot."""

    def __init__(self, n_runs: int, n_slots: int) -> None:
        self.lock = Lock()
        self.total = tqdm(total=n_runs, desc="study", position=0, bar_format=_BAR, unit="run")
        self.bars = [tqdm(position=i + 1, bar_format=_BAR, leave=False) for i in range(n_slots)]

    def start(self, slot: int, run: str) -> None:
        """Begin a fresh bar."""
        with self.lock:
            self.bars[slot].reset(total=1)
            self.bars[slot].set_description_str(run)

    def update(self, slot: int, run: str, event: dict[str, Any]) -> None:
        """Move the bar."""
        with self.lock:
            bar = self.bars[slot]
            bar.total = event.get("steps", bar.total)
            bar.n = event.get("step", bar.n)
            bar.set_postfix_str(_words(event))

    def finish(self, slot: int, run: str, state: str) -> None:
        """Count the run; say so if it did not succeed."""
        with self.lock:
            self.total.update(1)
            if state != "done":
                tqdm.write(f"{run}: {state}", file=sys.stderr)

    def close(self) -> None:
        """Leave only the study's own bar."""
        for bar in (*self.bars, self.total):
            bar.close()


class Lines:
    """A line when a run begins and ends, and now and then between."""

    def __init__(self, n_runs: int) -> None:
        self.lock = Lock()
        self.n_runs = n_runs
        self.n_done = 0
        self.began: dict[str, float] = {}
        self.spoke: dict[str, float] = {}

    def start(self, slot: int, run: str) -> None:
        """Say which run begins."""
        with self.lock:
            self.began[run] = self.spoke[run] = time.monotonic()
            print(f"{run}: starts", file=sys.stderr, flush=True)

    def update(self, slot: int, run: str, event: dict[str, Any]) -> None:
        """Say how far the run is, at most every 20 seconds."""
        with self.lock:
            now = time.monotonic()
            if now - self.spoke[run] < _QUIET_SECONDS:
                return
            self.spoke[run] = now
            step = f"step {event['step']}/{event['steps']}, " if "steps" in event else ""
            left = _left(event, now - self.began[run])
            print(f"{run}: {step}{_words(event)}{left}", file=sys.stderr, flush=True)

    def finish(self, slot: int, run: str, state: str) -> None:
        """Say how the run ended."""
        with self.lock:
            self.n_done += 1
            seconds = time.monotonic() - self.began[run]
            text = f"{run}: {state} after {seconds:.0f} s ({self.n_done}/{self.n_runs} runs)"
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left to say."""


def _words(event: dict[str, Any]) -> str:
    if "task" in event:
        return f"evaluating {event['task']}"
    parts = []
    if event.get("loss") is not None:
        parts.append(f"loss {event['loss']:.3f}")
    if event.get("tokens_per_sec"):
        parts.append(f"{event['tokens_per_sec']:,.0f} tokens/s")
    return ", ".join(parts)


def _left(event: dict[str, Any], seconds: float) -> str:
    if not event.get("step") or "steps" not in event:
        return ""
    return f", {seconds * (event['steps'] / event['step'] - 1):.0f} s left"
