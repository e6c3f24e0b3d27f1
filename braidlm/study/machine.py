"""What a machine can run side by side, asked without torch."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

from braidlm.arch import Recipe


@dataclass(frozen=True)
class Share:
    """How a machine is divided among runs."""

    n_slots: int
    """Runs at a time."""
    n_threads: int
    """CPU threads of each."""
    gpus: tuple[str, ...]
    """Values of CUDA_VISIBLE_DEVICES, dealt out slot by slot; none: runs see what there is."""


def share(recipes: Sequence[Recipe], jobs: int) -> Share:
    """Divide the machine: `jobs` runs at a time, or one per GPU, or one per core (`jobs` = 0)."""
    uses_gpus = any(recipe.train.device != "cpu" for recipe in recipes)
    gpus = visible_gpus() if uses_gpus else ()
    n_cores = count_cores()
    n_slots = min(jobs or len(gpus) or n_cores, len(recipes))
    return Share(n_slots, max(1, n_cores // n_slots), gpus)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES calls each GPU that the driver shows; () without any."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return ()
    except (OSError, AttributeError):
        return ()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple((named or [str(index) for index in range(count.value)])[: count.value])
