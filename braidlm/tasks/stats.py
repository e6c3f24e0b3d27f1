"""Estimates with standard errors, for items that come in clusters.

Tokens of one document, or queries of one item, are not independent. The unit that is drawn
independently is the cluster (document or item); every standard error here is over clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from braidlm.data.seeding import generator


class Estimate(NamedTuple):
    """A number measured on a sample."""

    value: float
    """The estimate; nan for an empty sample."""
    stderr: float
    """Its standard error; nan where the sample cannot tell (fewer than two clusters)."""
    n: int
    """Independent clusters that it rests on."""

    def as_metric(self, unit: str) -> dict[str, Any]:
        """Return the entry of a result file's `metrics`; what is not known is None."""
        return {
            "value": known(self.value),
            "stderr": known(self.stderr),
            "n": self.n,
            "unit": unit,
        }


def exact(value: float, n: int, unit: str) -> dict[str, Any]:
    """Return the entry of a number that is computed, not measured: it has no standard error."""
    return {"value": value, "stderr": None, "n": n, "unit": unit}


def known(value: float) -> float | None:
    """Return a finite number as it is, and None for any other."""
    return float(value) if math.isfinite(value) else None


def mean(values: np.ndarray | Sequence[float]) -> Estimate:
    """Return the mean of independent values (n,) and its standard error, s / sqrt(n).

    s^2 has n - 1 in its denominator.
    """
    values = np.asarray(values, dtype=np.float64)
    return ratio(values, np.ones_like(values))


def ratio(
    numerators: np.ndarray | Sequence[float], denominators: np.ndarray | Sequence[float]
) -> Estimate:
    """Return r = sum(y) / sum(x) over clusters, with the standard error of the delta method.

    var(r) = n / (n - 1) * sum_i (y_i - r x_i)^2 / sum(x)^2. With all x equal this is the mean's
    own formula.

    Args:
        numerators: (n,) y, each cluster's total, such as its loss.
        denominators: (n,) x, each cluster's size, such as its tokens, at least 0.

    Source: Cochran, Sampling Techniques, third edition (1977), eq. 2.39 without the finite
        population's factor; Miller 2024 (arXiv 2411.00640), section 2.2, for language models.
    """
    y = np.asarray(numerators, dtype=np.float64)
    x = np.asarray(denominators, dtype=np.float64)
    n, total = len(x), float(x.sum())
    if total == 0:
        return Estimate(math.nan, math.nan, n)
    r = float(y.sum()) / total
    if n < 2:
        return Estimate(r, math.nan, n)
    variance = n / (n - 1) * float(np.square(y - r * x).sum()) / total**2
    return Estimate(r, math.sqrt(variance), n)


def share(estimate: Estimate) -> Estimate:
    """Return an estimated share with an honest error where all clusters agree on 0 or on 1.

    Their scatter is then 0 though the true share need not be. The error becomes the standard
    deviation of a Beta(1, n + 1), what a uniform prior leaves open after n equal outcomes: about
    1 / (n + 2).
    """
    if estimate.stderr > 0 or estimate.value not in (0, 1) or estimate.n == 0:
        return estimate
    n = estimate.n
    return estimate._replace(stderr=math.sqrt((n + 1) / (n + 3)) / (n + 2))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the plain mean of independent estimates, such as one for each number of pairs."""
    k = len(estimates)
    value = sum(e.value for e in estimates) / k
    stderr = math.sqrt(sum(e.stderr**2 for e in estimates)) / k
    return Estimate(value, stderr, sum(e.n for e in estimates))


def by_cluster(values: Sequence[float], groups: Sequence[str], clusters: Sequence[str]) -> Estimate:
    """Return the plain mean of group means, its standard error over clusters of items.

    A cluster may reach over groups, such as a document that is asked about at several lengths.
    With weights w_i = 1 / (groups * items of the group) and u_c = sum over the items of cluster c
    of w_i (y_i - mean of its group), var = n / (n - 1) * sum_c u_c^2: the delta method of `ratio`,
    which it is for one group.

    Args:
        values: (N,) one score per item, at least one.
        groups: (N,) the kind of each; kinds count the same.
        clusters: (N,) what was drawn independently, such as the document.

    Source: Miller 2024 (arXiv 2411.00640), section 2.2, for questions that share a passage.
    """
    kinds, kind = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    drawn, cluster = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    y, sizes = np.asarray(values, dtype=np.float64), np.bincount(kind)
    means = np.bincount(kind, y) / sizes
    value, n = float(means.mean()), len(drawn)
    if n < 2:
        return Estimate(value, math.nan, n)
    parts = np.bincount(cluster, (y - means[kind]) / (len(kinds) * sizes[kind]))
    return Estimate(value, math.sqrt(n / (n - 1) * float(np.square(parts).sum())), n)


def drawn_anew(
    values: Sequence[float], groups: Sequence[str], clusters: Sequence[str], *, n_draws: int = 2000
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `by_cluster` when clusters are drawn anew.

    They are drawn with replacement; the bounds are the 2.5 and 97.5 percentiles over the draws,
    whose seed is fixed. Shares on which all items agree scatter nowhere: the bound inside is then
    that of Clopper and Pearson 1934, 1 - 0.025^(1 / n) for zeros. nan: fewer than two clusters.

    Args:
        values: (N,) one score per item, at least one.
        groups: (N,) the kind of each; kinds count the same.
        clusters: (N,) what was drawn independently.
        n_draws: how often.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3; Cameron,
        Gelbach and Miller 2008 for whole clusters.
    """
    kinds, kind = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    drawn, cluster = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    y, n = np.asarray(values, dtype=np.float64), len(drawn)
    if n < 2:
        return math.nan, math.nan
    if y.min() == y.max() and y[0] in (0, 1):
        inside = 0.025 ** (1 / n)
        return (0.0, 1 - inside) if y[0] == 0 else (inside, 1.0)
    cell = cluster * len(kinds) + kind
    sums = np.bincount(cell, y, minlength=n * len(kinds)).reshape(n, -1)
    sizes = np.bincount(cell, minlength=n * len(kinds)).reshape(n, -1)
    rng, means = generator(0, "drawn anew"), []
    for _ in range(n_draws):
        weights = np.bincount(rng.integers(n, size=n), minlength=n)
        items = weights @ sizes
        # A kind that no drawn cluster has is left out.
        means.append(np.mean((weights @ sums)[items > 0] / items[items > 0]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def exponential(estimate: Estimate) -> Estimate:
    """Return exp of an estimate by the delta method: the standard error is exp(value) * stderr."""
    try:
        value = math.exp(estimate.value)
    except OverflowError:
        value = math.inf
    return Estimate(value, value * estimate.stderr, estimate.n)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    n: int,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Return the bootstrap's standard error of a statistic over clusters, in its shape.

    All entries of the statistic see the same draws. Of fewer than two clusters it is nan.

    Args:
        statistic: of cluster indices (n,), drawn with replacement.
        n: clusters.
        n_resamples: how often they are drawn.
        seed: of the draws.

    Source: Efron 1979, Bootstrap Methods: Another Look at the Jackknife.
    """
    if n < 2:
        return np.full(np.shape(statistic(np.arange(n))), math.nan)
    rng = generator(seed, "bootstrap")
    drawn = np.array([statistic(rng.integers(n, size=n)) for _ in range(n_resamples)])
    return np.asarray(np.std(drawn, axis=0, ddof=1))
