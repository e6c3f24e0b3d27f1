"""How far a study is and how long it will take: a pure account of what its runs report."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Work:
    """What a run is about to do."""

    flops: float
    """Of its whole training; only ratios between runs matter."""
    share_left: float = 1.0
    """Share of its steps that is not trained yet, when it is continued."""


@dataclass
class Live:
    """A run under way."""

    name: str
    began: float
    step: int = 0
    steps: int = 0
    first_step: int = 0
    trains_since: float | None = None
    reported: float = 0.0
    evaluates_since: float | None = None
    task: str = ""
    event: dict[str, Any] = field(default_factory=dict)


class Account:
    """Follows the runs; every time is in seconds of `clock`.

    The speed of an arm is measured on its own runs of this session, counted from the step at
    which they began or were continued. An arm that has not run yet is expected to train as many
    FLOPs a second as those that have.
    """

    def __init__(self, work: Mapping[str, Work], n_slots: int, clock: Callable[[], float]) -> None:
        self.work = dict(work)
        self.n_slots = n_slots
        self.clock = clock
        self.began = clock()
        self.live: dict[str, Live] = {}
        self.states: dict[str, str] = {}
        self._sec_per_flop: dict[str, float] = {}
        self._heads: list[float] = []
        self._tails: list[float] = []

    def start(self, run: str) -> None:
        """A process begins."""
        self.live[run] = Live(run, self.clock())

    def update(self, run: str, event: Mapping[str, Any]) -> Live:
        """A run tells its step, or the task that it is at."""
        live, now = self.live[run], self.clock()
        live.event |= event
        if "task" in event or event.get("state") == "done":
            live.evaluates_since = live.evaluates_since or now
            live.task = event.get("task", "")
        elif "steps" in event:
            self._train(live, event, now)
        return live

    def _train(self, live: Live, event: Mapping[str, Any], now: float) -> None:
        live.step, live.steps, live.reported = event["step"], event["steps"], now
        if live.trains_since is None:
            live.trains_since, live.first_step = now, live.step
            self._heads.append(now - live.began)
        rate = self._sec_per_step(live)
        if rate is not None:
            self._sec_per_flop[_arm(live.name)] = rate * live.steps / self.work[live.name].flops

    def finish(self, run: str, state: str) -> float:
        """A process has ended; return how long it took."""
        live, now = self.live.pop(run), self.clock()
        self.states[run] = state
        if state == "done" and live.evaluates_since is not None:
            self._tails.append(now - live.evaluates_since)
        return now - live.began

    @property
    def waiting(self) -> list[str]:
        """Runs that have not begun."""
        return [run for run in self.work if run not in self.live and run not in self.states]

    def left(self, run: str) -> float | None:
        """Return the seconds until a run under way ends, its tasks included once one is known."""
        live, now = self.live[run], self.clock()
        if live.evaluates_since is not None:
            return (
                max(0.0, _mean(self._tails) + live.evaluates_since - now) if self._tails else None
            )
        rate = self._sec_per_step(live)
        if rate is None:
            expected = self._expected(run)
            return None if expected is None else max(0.0, expected + live.began - now)
        training = rate * (live.steps - live.step) + live.reported - now
        return max(0.0, training) + _mean(self._tails)

    def study_left(self) -> float | None:
        """Return the seconds until the last run ends, were each to start in the first free slot."""
        if not self._sec_per_flop:
            return None
        free = [self.left(run) or 0.0 for run in self.live]
        free += [0.0] * (self.n_slots - len(free))
        heapq.heapify(free)
        for run in self.waiting:
            heapq.heapreplace(free, free[0] + (self._expected(run) or 0.0))
        return max(free)

    def _expected(self, run: str) -> float | None:
        """Return the seconds of a run that has no speed of its own yet."""
        if not self._sec_per_flop:
            return None
        speed = self._sec_per_flop.get(_arm(run), _mean(list(self._sec_per_flop.values())))
        work = self.work[run]
        return _mean(self._heads) + speed * work.flops * work.share_left + _mean(self._tails)

    def _sec_per_step(self, live: Live) -> float | None:
        if live.trains_since is None or live.step <= live.first_step:
            return None
        return (live.reported - live.trains_since) / (live.step - live.first_step)


def _arm(run: str) -> str:
    return run.rpartition("/")[0]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
