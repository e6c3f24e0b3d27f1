"""Two arms that share their seeds: the same seed and the same item on either side.

A seed decides on the base that both arms start from and on the order of the data, an item on how
hard the question is. What is left of both cancels in the difference of the two sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from braidlm.report.pairs import Scores, pair
from braidlm.report.stats import t95
from braidlm.report.student import two_sided

if TYPE_CHECKING:
    import numpy as np  # at run time it is loaded where a study has comparisons

N_DRAWS = 4000
"""Bootstrap draws: the ends of a 95 % interval then move by a few percent of its width."""


@dataclass(frozen=True)
class Contrast:
    """How far arm a lies above arm b, both trained with the same seeds."""

    value: float
    """Mean over seeds and items of a - b, in the metric's unit."""
    half_width: float
    """Half of the 95 % t interval."""
    item_stderr: float
    """Over items, of the mean differences of the seeds."""
    seed_stderr: float | None
    """Over seeds, of the differences of the seeds; None with one seed."""
    degrees: float
    """Degrees of freedom of the t."""
    p: float
    """Two-sided, for a difference of zero, before any correction."""
    low: float
    """2.5 % point of the bootstrap over seeds and, within them, over items."""
    high: float
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    """Difference of each seed, in the order of `seeds`."""
    n_items: int


def contrast(a: Mapping[int, Scores], b: Mapping[int, Scores]) -> Contrast | None:
    """Compare two arms seed by seed and item by item; None where they cannot be paired.

    Let g[s, i] be the difference at seed s and item i. Its mean has the variance of the items'
    means over seeds, plus that of the seeds' means over items, minus what both count (see
    `pairs.pair`, whose rule this is for an arm of differences against nothing).

    Args:
        a: seed -> what each item adds to the metric.
        b: the same of the other arm; seeds that only one has are left out.
    """
    seeds = sorted(a.keys() & b.keys())
    items = [scores for seed in seeds for scores in (a[seed], b[seed])]
    if not items or any(
        (s.groups, s.clusters) != (items[0].groups, items[0].clusters) for s in items
    ):
        return None
    gaps = [
        replace(a[s], values={i: a[s].values[i] - b[s].values[i] for i in a[s].groups})
        for s in seeds
    ]
    nothing = replace(items[0], values=dict.fromkeys(items[0].groups, 0.0))
    found = pair(gaps, [nothing])
    if found is None or found.difference.half_width is None:
        return None
    half, value = found.difference.half_width, found.difference.value
    error = half / t95(found.degrees)
    by_seed, parts, strata = _linear(gaps)
    low, high = bootstrap(by_seed, parts, strata)
    return Contrast(
        value=value,
        half_width=half,
        item_stderr=found.item_stderr,
        seed_stderr=found.seed_stderrs[0],
        degrees=found.degrees,
        p=two_sided(value / error, found.degrees) if error else float(value == 0),
        low=low,
        high=high,
        seeds=tuple(seeds),
        by_seed=tuple(by_seed.tolist()),
        n_items=found.n_items,
    )


def _linear(gaps: list[Scores]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The differences as sums over what was drawn.

    Returns:
        Mean of each seed (S,); what each draw adds to the mean of a seed beside that of its kind
        (S, C); and the stratum from which each draw comes (C,): its kind, or one for all where
        items are drawn together and may reach over kinds.
    """
    import numpy as np

    groups, clusters = gaps[0].groups, gaps[0].clusters
    kinds = sorted(set(groups.values()))
    kind = np.array([kinds.index(group) for group in groups.values()])
    sizes = np.bincount(kind)
    values = np.array([[scores.values[i] for i in groups] for scores in gaps])
    means = np.stack([np.bincount(kind, row) / sizes for row in values])
    rest = (values - means[:, kind]) / (sizes[kind] * len(kinds))
    if not clusters:
        return means.mean(1), rest, kind
    names = sorted(set(clusters.values()))
    place = np.array([names.index(clusters[i]) for i in groups])
    summed = np.stack([np.bincount(place, row, len(names)) for row in rest])
    return means.mean(1), summed, np.zeros(len(names), dtype=int)


def bootstrap(
    by_seed: np.ndarray, parts: np.ndarray, strata: np.ndarray, n_draws: int = N_DRAWS
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over seeds (S,) and draws of items (S, C).

    Seeds are drawn with replacement, and items within their strata, the same ones for all seeds,
    because every seed answers the same questions. The draws are the same at every call.
    """
    import numpy as np

    random = np.random.default_rng(0)
    n_seeds = len(by_seed)
    chosen = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), n_draws) / n_seeds
    counts = np.empty((n_draws, parts.shape[1]))
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        size = len(places)
        counts[:, places] = random.multinomial(size, np.full(size, 1 / size), n_draws)
    drawn = chosen @ by_seed + ((chosen @ parts) * counts).sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def is_sure(found: Contrast) -> bool:
    """Whether the t interval leaves zero out."""
    return math.isfinite(found.half_width) and abs(found.value) > found.half_width
