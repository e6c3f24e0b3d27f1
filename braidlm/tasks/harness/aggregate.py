"""From what documents add to a metric to its value and standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from braidlm.tasks.harness import quietly
from braidlm.tasks.stats import Estimate, bootstrap, exponential, mean, ratio, share
from braidlm.tasks.work import Row

RESAMPLES = 100
"""Of the bootstrap, for aggregations without a formula."""


class Summed(NamedTuple):
    """A metric of one task."""

    task: str
    value: float
    stderr: float
    n: int
    unit: str

    def metric(self) -> dict[str, Any]:
        """Return the entry of a result file's `metrics`."""
        return Estimate(self.value, self.stderr, self.n).as_metric(self.unit)


def summed(task: Any, name: str, how: str, rows: Sequence[Row]) -> Summed:
    """Return one metric of one task of the harness.

    Args:
        task: its object.
        name: of the metric, and of the rows' entry that holds what a document adds.
        how: the harness's name of the aggregation.
        rows: of its documents.
    """
    values = [row[name] for row in rows]
    found, unit = _estimated(task, name, how, values)
    return Summed(task.config.task, *found, unit)


def _estimated(task: Any, name: str, how: str, values: list[Any]) -> tuple[Estimate, str]:
    is_plain = all(isinstance(value, int | float) for value in values)
    if how == "mean" and is_plain:
        found = mean(values)
        is_share = name != "nll" and all(0 <= value <= 1 for value in values)
        unit = "nats" if name == "nll" else "share" if is_share else "score"
        return (share(found) if is_share else found), unit
    if how == "perplexity" and is_plain:
        return exponential(mean([-value for value in values])), "per answer"
    if how in ("weighted_perplexity", "bits_per_byte"):
        sums, sizes = np.array(values, dtype=np.float64).T
        if how == "bits_per_byte":
            return ratio(-sums / math.log(2), sizes), "bits per byte"
        return exponential(ratio(-sums, sizes)), f"per {name.partition('_')[0]}"
    function = task.aggregation()[name.partition(",")[0]]
    return _by_bootstrap(function, values), "score"


def _by_bootstrap(function: Callable[[list[Any]], Any], values: list[Any]) -> Estimate:
    told = [tuple(value) if isinstance(value, list) else value for value in values]

    def statistic(numbers: np.ndarray) -> float:
        return float(function([told[i] for i in numbers.tolist()]))

    with quietly():
        value = float(function(told))
        stderr = float(bootstrap(statistic, len(told), n_resamples=RESAMPLES))
    return Estimate(value, stderr, len(told))


def combined(parts: Sequence[Summed], is_by_size: bool) -> Summed:
    """Return the metric of a group of tasks: its mean over documents, or over tasks.

    The tasks are given and their documents are drawn: with weights w_k, var = sum_k w_k^2 var_k.
    """
    sizes = np.array([part.n if is_by_size else 1 for part in parts], dtype=np.float64)
    weights = sizes / sizes.sum()
    value = float(weights @ [part.value for part in parts])
    stderr = float(np.sqrt(np.square(weights * [part.stderr for part in parts]).sum()))
    return Summed("", value, stderr, sum(part.n for part in parts), parts[0].unit)
