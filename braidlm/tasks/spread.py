"""The same items under several wordings: what differs between wordings, apart from item noise.

m_t is a metric's mean under template t. Their standard deviation over T templates holds both a true
difference of templates and the luck of the items that were drawn:

    spread^2 = 1 / (T - 1) sum_t (m_t - m)^2          E[spread^2] = true^2 + noise^2
    noise^2  = 1 / (T - 1) sum_t var(m_t - m)         over items, of the differences

The items are the same under every template, so what makes an item hard is in all m_t alike and is
no part of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from braidlm.tasks.stats import Estimate, bootstrap, known
from braidlm.tasks.work import Row

RESAMPLES = 200
KEY = "template"
"""The entry of a row that names its template."""


class Spread(NamedTuple):
    """How much a metric depends on the wording."""

    spread: float
    """Standard deviation of the templates' means."""
    stderr: float
    """Of that, over items, by the bootstrap."""
    noise: float
    """What it would be on average if no template were better than another."""
    lowest: float
    highest: float

    @property
    def beyond_noise(self) -> float:
        """An estimate of the true standard deviation; 0 where the items alone explain it."""
        return math.sqrt(max(0.0, self.spread**2 - self.noise**2))


def spread(
    values: Sequence[float],
    templates: Sequence[str],
    groups: Sequence[str],
    clusters: Sequence[str],
) -> Spread:
    """Return how far the means of two or more templates lie apart.

    Args:
        values: (N,) one score per item and template.
        templates: (N,) under which template.
        groups: (N,) the kind of each, which tells templates apart too; kinds of a template count
            the same.
        clusters: (N,) what was drawn independently; every cluster is asked under every template.
    """
    named, t = np.unique(np.asarray(templates, dtype=str), return_inverse=True)
    drawn, c = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    kinds, kind = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    n_kinds = len(kinds) / len(named)
    weight = 1 / (n_kinds * np.bincount(kind)[kind])
    shape = (len(named), len(drawn))
    sums, sizes = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (t, c), weight * np.asarray(values, dtype=np.float64))
    np.add.at(sizes, (t, c), weight)

    def of(numbers: np.ndarray) -> float:
        totals = sizes[:, numbers].sum(1)
        return float(np.std(sums[:, numbers].sum(1) / totals, ddof=1)) if totals.all() else math.nan

    means = sums.sum(1) / sizes.sum(1)
    apart = sums - means[:, None] * sizes
    apart = apart - apart.mean(0)
    n = len(drawn)
    noise = n / (n - 1) * float(np.square(apart).sum()) / (len(named) - 1) if n > 1 else math.nan
    stderr = float(bootstrap(of, n, n_resamples=RESAMPLES))
    found = of(np.arange(n))
    return Spread(found, stderr, math.sqrt(noise), float(means.min()), float(means.max()))


def over_templates(
    rows: Sequence[Row], names: Sequence[str], mean: Callable[[str], Estimate]
) -> list[dict[str, Any]]:
    """Return one line for each metric: its mean over templates and items, and both errors apart.

    Args:
        rows: with `template`, `cluster` and `group`.
        names: of the metrics.
        mean: of a metric over all rows.
    """
    columns = [[str(row[key]) for row in rows] for key in (KEY, "group", "cluster")]
    table = []
    for name in names:
        whole, found = mean(name), spread([row[name] for row in rows], *columns)
        line: dict[str, Any] = {"metric": name, "mean": known(whole.value)}
        line |= {"stderr_over_items": known(whole.stderr), "spread": known(found.spread)}
        line |= {"spread_stderr": known(found.stderr), "noise": known(found.noise)}
        line |= {"spread_beyond_noise": known(found.beyond_noise)}
        line |= {"lowest": known(found.lowest), "highest": known(found.highest)}
        table.append(line | {"n": whole.n, "n_templates": len(set(columns[0]))})
    return table


def told(table: Sequence[Mapping[str, Any]], metric: str, unit: str) -> dict[str, Any]:
    """Return the entry of a result's `metrics` that tells how much the wording matters."""
    line = next(line for line in table if line["metric"] == metric)
    value, stderr = line["spread"], line["spread_stderr"]
    return {"value": value, "stderr": stderr, "n": line["n"], "unit": unit}
