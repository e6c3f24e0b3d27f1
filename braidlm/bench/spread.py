"""What a few repeats tell: the median, the quartiles, and how sure the median is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

N_DRAWS = 2000
"""Of the bootstrap: its own error is a hundredth of an interval's width."""
SEED = 0


class Spread(NamedTuple):
    """A quantity that was measured several times."""

    value: float
    """At the medians."""
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end."""
    stderr: float
    """Standard deviation of the bootstrap."""
    n: int
    """Repeats, the fewest of what it is made of."""


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile of at least two samples."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def spread(function: Callable[..., float], *samples: Sequence[float]) -> Spread:
    """Return a function of medians, and how far it moves when every sample is drawn anew.

    Samples are drawn with replacement, each kind for itself, and the medians taken again; the
    interval is between the 2.5th and the 97.5th percentile of `N_DRAWS` such values.

    Args:
        function: takes one median for each of `samples`.
        samples: repeats of each quantity.

    Source: Efron 1979 (Bootstrap methods: another look at the jackknife).
    """
    draws = np.random.default_rng(SEED)
    medians = [_medians(np.asarray(one, dtype=np.float64), draws) for one in samples]
    again = np.array([function(*values) for values in zip(*medians, strict=True)])
    low, high = np.percentile(again, (2.5, 97.5))
    value = function(*(statistics.median(one) for one in samples))
    return Spread(value, float(low), float(high), float(again.std()), min(map(len, samples)))


def _medians(samples: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    drawn = draws.integers(len(samples), size=(N_DRAWS, len(samples)))
    return np.median(samples[drawn], axis=1)
