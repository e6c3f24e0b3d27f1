"""Curves out of runs: the loss over steps, and the rows of result tables, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from braidlm.report.load import Arm
from braidlm.report.stats import Estimate, estimate, mean, number

MAX_POINTS = 90
"""Bins of a whole run: late ones hold many steps, so a curve gets smoother to the right."""
TAIL_POINTS = 24
"""Bins of the second half: few, so that differences between arms show through step noise."""


def loss_points(arm: Arm, *, tail: bool = False) -> list[dict[str, Any]]:
    """The training loss of one arm in nats, in at most `MAX_POINTS` (`TAIL_POINTS`) rows.

    A row holds step, mean, low, high and n_seeds. Logged steps that share a bin are averaged
    within a seed; mean, low and high are over seeds. The whole run has bins of equal ratio; `tail`
    is the second half of the longest run in bins of equal width.
    """
    curves = [_curve(run.metrics) for run in arm.runs]
    last = max((step for curve in curves for step, _ in curve), default=0.0)
    first = last / 2 if tail else 1.0
    bin_of = _equal_bins(first, last) if tail else _ratio_bins(last)
    binned = [_bin([p for p in curve if not tail or p[0] >= first], bin_of) for curve in curves]
    rows = []
    for key in sorted({key for bins in binned for key in bins}):
        here = [bins[key] for bins in binned if key in bins]
        losses = [loss for _, loss in here]
        rows.append(
            {
                "step": mean([step for step, _ in here]),
                "mean": mean(losses),
                "low": min(losses),
                "high": max(losses),
                "n_seeds": len(here),
            }
        )
    return rows


def first_bad_step(metrics: list[dict[str, Any]]) -> float | None:
    """The first logged step whose loss is not finite."""
    for row in metrics:
        if "loss" in row and number(row["loss"]) is None:
            return number(row.get("step")) or 0.0
    return None


def _curve(metrics: list[dict[str, Any]]) -> list[tuple[float, float]]:
    found = [(number(row.get("step")), number(row.get("loss"))) for row in metrics]
    return sorted((step, loss) for step, loss in found if step is not None and loss is not None)


def _ratio_bins(last: float) -> Callable[[float], int]:
    ratio = math.log(max(last, 2.0)) / MAX_POINTS
    return lambda step: min(math.floor(math.log(max(step, 1.0)) / ratio), MAX_POINTS - 1)


def _equal_bins(first: float, last: float) -> Callable[[float], int]:
    width = max(last - first, 1.0) / TAIL_POINTS
    return lambda step: min(math.floor((step - first) / width), TAIL_POINTS - 1)


def _bin(
    curve: list[tuple[float, float]], bin_of: Callable[[float], int]
) -> dict[int, tuple[float, float]]:
    bins: dict[int, list[tuple[float, float]]] = {}
    for step, loss in curve:
        bins.setdefault(bin_of(step), []).append((step, loss))
    return {
        key: (mean([step for step, _ in points]), mean([loss for _, loss in points]))
        for key, points in bins.items()
    }


def row_estimates(
    results: Iterable[dict[str, Any]], table: str, keys: tuple[str, ...], value: str, stderr: str
) -> list[tuple[tuple[float, ...], Estimate]]:
    """One column of one result table over seeds: (key values, estimate), sorted by the keys."""
    found: dict[tuple[float, ...], list[tuple[Any, Any, Any]]] = {}
    for result in results:
        for row in (result.get("tables") or {}).get(table) or []:
            at = tuple(number(row.get(key)) for key in keys)
            if None not in at:
                cell = (row.get(value), row.get(stderr), row.get("n"))
                found.setdefault(at, []).append(cell)  # type: ignore[arg-type]
    estimates = [(at, estimate(cells)) for at, cells in sorted(found.items())]
    return [(at, e) for at, e in estimates if e is not None]
