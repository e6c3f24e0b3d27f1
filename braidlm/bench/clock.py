"""Timing: a device that is idle before and behind every call, contenders in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

Sample = TypeVar("Sample")


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of one call, its kernels included."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


class Rounds(Generic[Sample]):
    """Calls of several contenders, each once a round, in an order that moves on by one a round.

    So whatever else the machine does, and whatever one leaves behind for the next, weighs on all.
    """

    def __init__(self, calls: dict[str, Callable[[], Sample]], n: int) -> None:
        self.calls, self.n = calls, n
        self.samples: dict[str, list[Sample]] = {name: [] for name in calls}
        """Of each round, in order; fewer of them when the rounds were interrupted."""

    def run(self) -> None:
        """Run all rounds."""
        for index in range(self.n):
            for name in turned(list(self.calls), index):
                self.samples[name].append(self.calls[name]())


def turned(names: Sequence[str], by: int) -> Iterator[str]:
    """Yield the names from number `by` on, around."""
    for i in range(len(names)):
        yield names[(i + by) % len(names)]
