"""What the declared comparisons of a study say, in words that are computed from the numbers."""

from __future__ import annotations

import math
from typing import Any

from braidlm.report.units import decimals, fixed

ALPHA = 0.05
"""A finding is stated when a family of such comparisons has a false one at most this often."""


def findings(study: dict[str, Any]) -> list[str]:
    """One sentence for each comparison in each outcome, and one on their number before them.

    Args:
        study: one entry of `treatments.treatments`.
    """
    labels = {arm["name"]: arm["label"] for arm in study["arms"]}
    said = [
        f"{measure(task)}: {sentence(task, row, labels)}"
        for task in study["tasks"]
        if task["is_outcome"]
        for row in task["comparisons"]
    ]
    return [count(study), *said] if said else []


def measure(task: dict[str, Any]) -> str:
    """What was measured: a task and its metric."""
    return f"{task['task']}, {task['metric'].replace('_', ' ')}"


def count(study: dict[str, Any]) -> str:
    """How many comparisons were declared, and how many hold after the correction."""
    rows = [r for task in study["tasks"] if task["is_outcome"] for r in task["comparisons"]]
    n_held = sum(verdict(row) == "held" for row in rows)
    n = study["n_outcomes"]
    many = "One comparison was" if n == 1 else f"{n} comparisons were"
    told = "it differs" if n == n_held == 1 else f"{n_held} of them differ{'s' * (n_held == 1)}"
    return f"{many} declared for the outcomes; {told} from zero after Holm's correction."


def sentence(task: dict[str, Any], row: dict[str, Any], labels: dict[str, str]) -> str:
    """Say how far an arm lies above its control in one task."""
    sides = f"{labels[row['arm']]} − {labels[row['control']]}"
    if "value" not in row:
        return f"{sides} cannot be computed: {row['note']}."
    seeds = f"{len(row['seeds'])} seed{'s' * (len(row['seeds']) > 1)}, {row['n_items']:,} items"
    note = f", {row['note']}" if row["note"] else ""
    return f"{sides}: {interval(row)}, {seeds}{note}: {_meaning(task, row)}."


def interval(row: dict[str, Any]) -> str:
    """A difference with its sign and its 95 % interval: "+0.12 [0.05, 0.19]"."""
    places = decimals(row["half_width"])
    low, high = (row["value"] + sign * row["half_width"] for sign in (-1, 1))
    return f"{signed(row['value'], places)} [{fixed(low, places)}, {fixed(high, places)}]"


def signed(value: float, places: int) -> str:
    """A difference with its sign."""
    text = fixed(value, places)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def verdict(row: dict[str, Any]) -> str:
    """How sure a difference is: "held" after the correction, "alone" without it, or "open"."""
    if "value" not in row:
        return "none"
    if row.get("p_holm", math.nan) < ALPHA:
        return "held"
    return "alone" if abs(row["value"]) > row["half_width"] else "open"


def _meaning(task: dict[str, Any], row: dict[str, Any]) -> str:
    way = "better" if (row["value"] > 0) == (task["better"] == "higher") else "worse"
    about = "" if len(row["seeds"]) > 1 else ", for other items of this one training"
    return {
        "held": f"{way}{about}",
        "alone": f"{way} by itself, not after the correction for the number of comparisons{about}",
        "open": f"cannot be told from no difference{about}",
    }[verdict(row)]
