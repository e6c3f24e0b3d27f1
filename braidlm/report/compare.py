"""Which arm is best in each metric, and which others cannot be told from it."""

from __future__ import annotations

import contextlib
from typing import Any

from braidlm.errors import InputError
from braidlm.report.load import Arm
from braidlm.report.pairs import Paired, Scores, pair, scores
from braidlm.report.run import Run
from braidlm.report.stats import Estimate, difference


def leads(rows: list[dict[str, Any]], columns: list[dict[str, Any]], arms: list[Arm]) -> dict:
    """For each column the best arm and every other arm's distance from it.

    Args:
        rows: arms with their `metrics`.
        columns: the metrics, with `key`, `task`, `metric` and `better`.
        arms: the same arms with their runs, for results that are paired by item.

    Returns:
        column key -> {"best": name, "others": {name: {"value", "half_width", "is_within_error",
        "is_paired"}}}, others in the order of their means. `value` is best minus other;
        `half_width` belongs to the 95 % interval. Arms that answered the same items are paired:
        see `pairs.pair`.
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


def _distance(top: Estimate, other: Estimate, paired: Paired | None) -> dict[str, Any]:
    gap = difference(top, other) if paired is None else paired.difference
    return {
        "value": gap.value,
        "half_width": gap.half_width,
        "is_within_error": gap.is_within_error,
        "is_paired": paired is not None,
    }


def _paired(a: Arm, b: Arm, column: dict[str, Any]) -> Paired | None:
    """The two arms item by item; None where the items are unknown or not the same."""
    asked = [run.results[column["task"]] for arm in (a, b) for run in _measured(arm, column)]
    if any(result.get("task") != asked[0].get("task") for result in asked):
        return None
    with contextlib.suppress(InputError):
        return pair(*([_scores(run, column) for run in _measured(arm, column)] for arm in (a, b)))
    return None


def _measured(arm: Arm, column: dict[str, Any]) -> list[Run]:
    return [run for run in arm.runs if column["task"] in run.results]


def _scores(run: Run, column: dict[str, Any]) -> Scores:
    return scores(run.path / "results", run.results[column["task"]], column["metric"])
