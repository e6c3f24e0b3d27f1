"""When a number may be spoken of: its 95 % interval over documents, and what lies outside it."""

from __future__ import annotations

import math
from typing import Any

from braidlm.report import units
from braidlm.report.stats import number, t95

MOST_PLACES = 6


def half_width(stderr: float | None, n: int) -> float:
    """Return half of the 95 % interval of a mean over n documents; infinite where none is known."""
    return math.inf if stderr is None or n < 2 else t95(n - 1) * stderr


def is_clear(value: float, stderr: float | None, n: int, null: float) -> bool:
    """Whether the 95 % interval leaves `null` outside."""
    return abs(value - null) > half_width(stderr, n)


def told(value: float, stderr: float | None, n: int, unit: str = "") -> str:
    """Write a value with half of its interval and as many decimals as that allows.

    Intervals that take more than `MOST_PLACES` decimals are written as powers of ten.
    """
    half = half_width(stderr, n)
    if not math.isfinite(half):
        return f"{units.plain(value)}{unit}".replace("e-", "e−")
    places = units.decimals(half) if half else 2
    if places > MOST_PLACES:
        return f"{units.plain(value)} ± {half:.1e}{unit}".replace("e-", "e−")
    return f"{units.fixed(value, places)} ± {units.fixed(half, places)}{unit}"


def said(row: dict[str, Any], name: str, unit: str = "") -> str:
    """Write what a table's row has under `name`, with its interval; a dash where it has nothing."""
    value = number(row.get(name))
    if value is None:
        return units.MISSING
    return told(value, number(row.get(f"{name}_stderr")), int(number(row.get("n")) or 0), unit)
