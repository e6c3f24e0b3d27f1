"""The minimum of a parabola through noisy points, with the error that the noise leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from braidlm.report.stats import mean, t95

Point = tuple[float, Mapping[int, float]]
"""A place, and the value that each seed found there."""


@dataclass(frozen=True)
class Minimum:
    """Where a fitted parabola is lowest."""

    x: float
    half_width: float | None
    """Of the 95 % interval; None with one seed, infinite when the noise allows a line."""


def minimum(points: Sequence[Point]) -> Minimum | None:
    """Fit y = c0 + c1 p1(x) + c2 p2(x) by least squares and return its minimum, if it has one.

    p1 and p2 are orthogonal over the points, so that the errors of c1 and c2 are independent. The
    noise is what is left of the values after the mean of each place and of each seed (a seed that
    is better everywhere moves no minimum), and the error of the minimum follows to first order.

    Args:
        points: at least three places; seeds that lack one of them are left out.

    Returns:
        None for a parabola that opens downwards, or when no seed is at every place.
    """
    seeds = sorted(set.intersection(*(set(values) for _, values in points)))
    if not seeds:
        return None
    rows = [[values[seed] for seed in seeds] for _, values in points]
    centre = mean([x for x, _ in points])
    u = [x - centre for x, _ in points]
    square = math.fsum(a**2 for a in u)
    skew = math.fsum(a**3 for a in u) / square
    p2 = [a**2 - skew * a - square / len(u) for a in u]
    p2_square = math.fsum(p**2 for p in p2)
    y = [mean(row) for row in rows]
    c1 = math.fsum(a * b for a, b in zip(u, y, strict=True)) / square
    c2 = math.fsum(p * b for p, b in zip(p2, y, strict=True)) / p2_square
    if c2 <= 0:
        return None
    x = centre + skew / 2 - c1 / (2 * c2)
    if len(seeds) < 2:
        return Minimum(x, None)
    degrees = (len(rows) - 1) * (len(seeds) - 1)
    variance = _noise(rows) / degrees / len(seeds)
    t = t95(degrees)
    if c2**2 <= t**2 * variance / p2_square:
        return Minimum(x, math.inf)
    spread = variance * (1 / (4 * c2**2 * square) + c1**2 / (4 * c2**4 * p2_square))
    return Minimum(x, t * math.sqrt(spread))


def _noise(rows: list[list[float]]) -> float:
    """Return the sum of squares that is left after row and column means."""
    whole = mean([value for row in rows for value in row])
    columns = [mean(column) for column in zip(*rows, strict=True)]
    return math.fsum(
        (value - mean(row) - column + whole) ** 2
        for row in rows
        for value, column in zip(row, columns, strict=True)
    )
