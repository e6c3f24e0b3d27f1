"""Which arm is best in each metric, and which others cannot be told from it."""

from __future__ import annotations

import math
from typing import Any

from braidlm.report.load import Arm
from braidlm.report.stats import Estimate, difference, mean, number

Documents = dict[str, tuple[float, float]]  # document -> (bits over all seeds' mean, bytes)


def leads(rows: list[dict[str, Any]], columns: list[dict[str, Any]], arms: list[Arm]) -> dict:
    """For each column the best arm and every other arm's distance from it.

    Args:
        rows: arms with their `metrics`.
        columns: the metrics, with `key`, `task`, `metric` and `better`.
        arms: the same arms with their runs, for results that are paired by document.

    Returns:
        column key -> {"best": name, "others": {name: {"value", "half_width", "is_within_error",
        "is_paired"}}}, others in the order of their means. `value` is best minus other;
        `half_width` belongs to the 95 % interval. Bits per byte are paired: both arms' losses on
        the same documents are subtracted before the error over items is taken.
    """
    by_name = {arm.name: arm for arm in arms}
    out = {}
    for column in columns:
        ranked = _ranked(rows, column)
        if not ranked:
            continue
        (best, top), rest = ranked[0], ranked[1:]
        out[column["key"]] = {
            "best": best,
            "others": {
                name: _distance(top, found, _paired(by_name[best], by_name[name], column))
                for name, found in rest
            },
        }
    return out


def _ranked(rows: list[dict[str, Any]], column: dict[str, Any]) -> list[tuple[str, Estimate]]:
    found = [(row["name"], row["metrics"][column["key"]]) for row in rows]
    estimates = [(name, Estimate(**entry)) for name, entry in found if entry]
    return sorted(estimates, key=lambda e: e[1].mean, reverse=column["better"] == "higher")


def _distance(top: Estimate, other: Estimate, paired: float | None) -> dict[str, Any]:
    gap = difference(top, other, item_stderr=paired)
    return {
        "value": gap.value,
        "half_width": gap.half_width,
        "is_within_error": gap.is_within_error,
        "is_paired": paired is not None,
    }


def _paired(a: Arm, b: Arm, column: dict[str, Any]) -> float | None:
    """Standard error over documents of the difference in bits per byte; None if they differ."""
    if column["metric"] != "bits_per_byte":
        return None
    ours, theirs = _documents(a, column["task"]), _documents(b, column["task"])
    if len(ours) < 2 or {k: v[1] for k, v in ours.items()} != {k: v[1] for k, v in theirs.items()}:
        return None
    return ratio_stderr(
        [ours[key][0] - theirs[key][0] for key in ours], [n_bytes for _, n_bytes in ours.values()]
    )


def _documents(arm: Arm, task: str) -> Documents:
    """Bits and bytes of each document that every seed scored, bits averaged over seeds."""
    seeds = [_of_result(run.results[task]) for run in arm.runs if task in run.results]
    shared = set.intersection(*map(set, seeds)) if seeds else set()
    return {
        key: (mean([seed[key][0] for seed in seeds]), seeds[0][key][1]) for key in sorted(shared)
    }


def _of_result(result: dict[str, Any]) -> Documents:
    out = {}
    for row in (result.get("tables") or {}).get("by_document") or []:
        found = [number(row.get(key)) for key in ("nll", "n_tokens", "n_bytes")]
        nll, n_tokens, n_bytes = (value if value is not None else math.nan for value in found)
        if math.isfinite(nll * n_tokens * n_bytes):
            out[str(row.get("document"))] = (nll * n_tokens / math.log(2), n_bytes)
    return out


def ratio_stderr(numerators: list[float], sizes: list[float]) -> float | None:
    """Standard error of sum(y) / sum(x) over n >= 2 clusters by the delta method.

    var = n / (n - 1) * sum_i (y_i - r x_i)^2 / sum(x)^2. None when all sizes are zero.
    """
    n, total = len(sizes), math.fsum(sizes)
    if n < 2 or total <= 0:
        return None
    r = math.fsum(numerators) / total
    squares = math.fsum((y - r * x) ** 2 for y, x in zip(numerators, sizes, strict=True))
    return math.sqrt(n / (n - 1) * squares) / total
