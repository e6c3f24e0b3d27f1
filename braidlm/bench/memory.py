"""How much memory a call takes, on a GPU by torch's own account, on a CPU by the resident set."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import torch

Result = TypeVar("Result")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter(Protocol):
    """Bytes in use now and at most."""

    how: str
    """What is counted, in words."""

    def used(self) -> int | None:
        """Return the bytes in use, and forget the peak; None: it cannot be told."""
        ...

    def peak(self) -> int | None:
        """Return the most bytes in use since then."""
        ...


class CudaMeter:
    """What torch's allocator has handed out."""

    how = "torch.cuda.max_memory_allocated"

    def used(self) -> int:
        """Return the allocated bytes, and forget the peak."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        """Return the peak since then."""
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


class ResidentMeter:
    """The resident set of this process, on Linux; freed memory is given back before it is read."""

    how = "growth of the resident set"

    def used(self) -> int | None:
        """Return the resident bytes, and forget the peak."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            RESET.write_text("5")
            return _status("VmRSS")
        return None

    def peak(self) -> int | None:
        """Return the peak since then."""
        with contextlib.suppress(OSError):
            return _status("VmHWM")
        return None


def _status(field: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def meter_of(device: torch.device) -> Meter:
    """Return what counts on this device."""
    return CudaMeter() if device.type == "cuda" else ResidentMeter()


class Gauge:
    """Memory of one contender among several that are there at once.

    What its calls leave behind is counted as its own, so that the peak of a call is told without
    what the others hold.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.held = 0
        self.peaks: list[int] = []
        """Of each call, in bytes; empty where the system does not tell."""

    def run(self, call: Callable[[], Result]) -> Result:
        """Run a call, and add its peak to `peaks`."""
        before = self.meter.used()
        result = call()
        peak = self.meter.peak()
        after = self.meter.used()
        if before is not None and peak is not None and after is not None:
            self.peaks.append(self.held + max(peak, before, after) - before)
            self.held += after - before
        return result


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that is left on a device; None: it cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    return None
