"""P-values of Student's t, and what many of them mean together."""

from __future__ import annotations

import math
from collections.abc import Sequence

_TINY = 1e-300
_EPS = 1e-14


def two_sided(t: float, degrees: float) -> float:
    """Probability that |T| is at least |t| for Student's T with so many degrees of freedom.

    That is the regularised incomplete beta function I_x(degrees / 2, 1 / 2) at
    x = degrees / (degrees + t^2); the normal distribution where `degrees` is infinite.

    Source: Abramowitz and Stegun 1964, 26.5.27 and, for the continued fraction, 26.5.8.
    """
    if math.isnan(t):
        return math.nan
    if math.isinf(degrees):
        return math.erfc(abs(t) / math.sqrt(2))
    return _beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    whole = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(whole + a * math.log(x) + b * math.log1p(-x)) / a
    return front / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 + d1 / (1 + d2 / (1 + ...)), by Lentz's method."""
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, 10_000):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < _EPS:
            break
    return value


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number: at most a share alpha of such families has a false one.

    Source: Holm 1979 (Scand. J. Stat. 6:65).
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    found, least = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[i]))
        found[i] = least
    return found
