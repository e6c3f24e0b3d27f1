"""When a number may be spoken of: its 95 % interval over documents, and what lies outside it."""

from __future__ import annotations

import math

from braidlm.report import units
from braidlm.report.stats import t95


def half_width(stderr: float | None, n: int) -> float:
    """Return half of the 95 % interval of a mean over n documents; infinite where none is known."""
    return math.inf if stderr is None or n < 2 else t95(n - 1) * stderr


def is_clear(value: float, stderr: float | None, n: int, null: float) -> bool:
    """Whether the 95 % interval leaves `null` outside."""
    return abs(value - null) > half_width(stderr, n)


def told(value: float, stderr: float | None, n: int, unit: str = "") -> str:
    """Write a value with half of its interval and as many decimals as that allows."""
    half = half_width(stderr, n)
    if not math.isfinite(half):
        return f"{units.plain(value)}{unit}"
    places = units.decimals(half) if half else 2
    return f"{units.fixed(value, places)} ± {units.fixed(half, places)}{unit}"
