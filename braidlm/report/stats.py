"""Means and the two errors that they carry: the spread over seeds and the error over test items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Two-sided 95 % points of Student's t for 1..30 degrees of freedom.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.960

_LOWER = ("loss", "nll", "perplexity", "bits", "error", "sec", "bytes", "_other", "other_")


@dataclass(frozen=True)
class Estimate:
    """A metric of one arm.

    mean: over seeds. seed_stderr: standard deviation over seeds / sqrt(seeds), None with one seed.
    item_stderr: root mean square over seeds of the error over test items; it is not divided by
    sqrt(seeds), because every seed answers the same items. None when no run reports it.
    """

    mean: float
    seed_stderr: float | None
    item_stderr: float | None
    n_seeds: int
    n_items: int | None
    values: tuple[float, ...]

    @property
    def stderr(self) -> float:
        """Both errors in quadrature; zero when neither is known."""
        return math.hypot(self.seed_stderr or 0.0, self.item_stderr or 0.0)


@dataclass(frozen=True)
class Difference:
    """How far `a` lies above `b`; half the width of its 95 % interval (None: no error known)."""

    value: float
    half_width: float | None

    @property
    def is_within_error(self) -> bool:
        """Whether the interval holds zero. Without any error nothing can be told apart."""
        return self.half_width is None or abs(self.value) <= self.half_width


def number(value: object) -> float | None:
    """A finite float, or None for anything else (None, text, NaN, infinity, booleans)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def seed_stderr(values: Sequence[float]) -> float | None:
    """Standard error of the mean over seeds (sample deviation / sqrt(n)); None below two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def estimate(measured: Iterable[tuple[object, object, object]]) -> Estimate | None:
    """One arm's metric from (value, stderr, n) of each seed.

    Values that are not finite are left out; returns None when nothing is left.
    """
    rows = [
        (v, number(e), number(n)) for value, e, n in measured if (v := number(value)) is not None
    ]
    if not rows:
        return None
    values = tuple(value for value, _, _ in rows)
    errors = [error for _, error, _ in rows if error is not None]
    counts = [count for _, _, count in rows if count is not None]
    return Estimate(
        mean=mean(values),
        seed_stderr=seed_stderr(values),
        item_stderr=math.sqrt(mean([error**2 for error in errors])) if errors else None,
        n_seeds=len(values),
        n_items=round(mean(counts)) if counts else None,
        values=values,
    )


def as_dict(found: Estimate) -> dict[str, Any]:
    """An estimate with plain lists."""
    return asdict(found) | {"values": list(found.values)}


def t95(degrees: float) -> float:
    """Two-sided 95 % point of Student's t for any degrees of freedom of at least 1.

    Between table entries linear in 1 / degrees: t is convex there, so this is never too small.
    """
    if degrees <= 1:
        return _T95[0]
    if degrees >= 30:
        return _NORMAL + (_T95[-1] - _NORMAL) * 30 / degrees
    below = int(degrees)
    share = (1 / below - 1 / degrees) / (1 / below - 1 / (below + 1))
    return _T95[below - 1] + share * (_T95[below] - _T95[below - 1])


def difference(a: Estimate, b: Estimate) -> Difference:
    """`a.mean - b.mean` with a 95 % interval (Welch): seeds and items both count as chance.

    The items count as independent, although both arms may have answered the same ones, which makes
    the interval too wide rather than too narrow; see `pairs.pair` for items that are known.
    """
    errors = (a.seed_stderr, a.item_stderr, b.seed_stderr, b.item_stderr)
    value = a.mean - b.mean
    if all(error is None for error in errors):
        return Difference(value, None)
    variance = math.fsum(error**2 for error in errors if error is not None)
    # Item errors rest on many items and take no degree of freedom.
    seeds = [(e.seed_stderr**2, e.n_seeds - 1) for e in (a, b) if e.seed_stderr is not None]
    return Difference(value, t95(welch_degrees(seeds, variance)) * math.sqrt(variance))


def welch_degrees(parts: Sequence[tuple[float, float]], variance: float | None = None) -> float:
    """Welch and Satterthwaite's degrees of freedom of a sum of variances.

    Args:
        parts: (variance, its degrees of freedom) of each part that has few.
        variance: of the sum, if there are parts besides; by default that of the parts.
    """
    total = math.fsum(v for v, _ in parts) if variance is None else variance
    lost = math.fsum(v**2 / degrees for v, degrees in parts)
    return total**2 / lost if lost > 0 else math.inf


def better(metric: str) -> str:
    """Which values of a metric are better, "lower" or "higher", by its name."""
    return "lower" if any(word in metric for word in _LOWER) else "higher"
