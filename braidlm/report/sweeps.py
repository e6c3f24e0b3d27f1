"""Sweeps of the learning rate: loss against rate, which rate is best, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile
from typing import Any

from braidlm.report.load import Arm
from braidlm.report.parabola import minimum
from braidlm.report.run import Run
from braidlm.report.stats import estimate, mean, number

REACH = 2
"""Rates on each side of the best one that the parabola goes through."""
HELD_OUT = "held-out loss"
TRAINING = "training loss over the last tenth of the steps"


def sweeps(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return one entry per sweep and width, in the order in which they were found.

    Returns:
        `sweep`, `width`, `measure` (which loss, in nats per token), `rows` (by rate: `lr`, `loss`
        as an estimate or null, `n_seeds` planned, `n_diverged`, `n_unfinished`), `best` (the rate
        with the lowest loss), `minimum` (`lr`, `low`, `high`: the parabola's, with its 95 %
        interval; null at an edge) and `verdict`, a sentence.
    """
    groups: dict[tuple[str, int], list[Arm]] = {}
    for arm in arms:
        if arm.point is not None:
            groups.setdefault((arm.point.sweep, arm.point.width), []).append(arm)
    return [_entry(sweep, width, found) for (sweep, width), found in groups.items()]


def _entry(sweep: str, width: int, arms: list[Arm]) -> dict[str, Any]:
    arms = sorted(arms, key=_rate)
    runs = [run for arm in arms for run in arm.runs]
    measure = HELD_OUT if any(_held_out(run) is not None for run in runs) else TRAINING
    rows = [_row(arm, measure) for arm in arms]
    values = [
        {r.seed or 0: v for r in arm.runs if (v := _value(r, measure)) is not None}
        if row["loss"]
        else {}
        for arm, row in zip(arms, rows, strict=True)
    ]
    return {
        "sweep": sweep,
        "width": width,
        "measure": measure,
        "rows": rows,
        **_verdict(rows, values),
    }


def _rate(arm: Arm) -> float:
    return arm.point.lr if arm.point else 0.0


def _row(arm: Arm, measure: str) -> dict[str, Any]:
    """Describe one rate; it has a loss only if no seed diverged."""
    values = [_value(run, measure) for run in arm.runs]
    diverged = [_is_diverged(run, value) for run, value in zip(arm.runs, values, strict=True)]
    found = None if any(diverged) else estimate((value, None, None) for value in values)
    ended = [value is not None or bad for value, bad in zip(values, diverged, strict=True)]
    return {
        "lr": _rate(arm),
        "loss": asdict(found) if found else None,
        "n_seeds": len(arm.runs),
        "n_diverged": sum(diverged),
        "n_unfinished": ended.count(False),
    }


def _value(run: Run, measure: str) -> float | None:
    if run.status.get("state") != "done":
        return None
    return _held_out(run) if measure == HELD_OUT else _last_losses(run)


def _held_out(run: Run) -> float | None:
    """Nats per token of the first language-modelling task."""
    for result in run.results.values():
        if result.get("kind") == "lm":
            entry = (result.get("metrics") or {}).get("nll_per_token") or {}
            return number(entry.get("value"))
    return None


def _last_losses(run: Run) -> float | None:
    steps = number(run.status.get("steps")) or 0.0
    late = [row for row in run.metrics if (number(row.get("step")) or 0.0) > 0.9 * steps]
    losses = [number(row.get("loss")) for row in late]
    known = [loss for loss in losses if loss is not None]
    return mean(known) if known and len(known) == len(losses) else None


def _is_diverged(run: Run, value: float | None) -> bool:
    """Whether the loss became no number, or ended above that of the first update."""
    error = str(run.status.get("error") or "")
    if run.status.get("state") == "failed" and error.startswith("NonFiniteLossError"):
        return True
    first = number(run.metrics[0].get("loss")) if run.metrics else None
    return value is not None and first is not None and value > first


def _verdict(rows: list[dict[str, Any]], values: list[dict[int, float]]) -> dict[str, Any]:
    """Name the best rate and the parabola's minimum, or why there is none."""
    known = [i for i, row in enumerate(rows) if row["loss"]]
    if not known:
        return {"best": None, "minimum": None, "verdict": "No rate has a loss."}
    at = min(known, key=lambda i: rows[i]["loss"]["mean"])
    best = rows[at]["lr"]
    edge = _edge(rows, at)
    if edge:
        said = f"The best rate tried, {best:.3g}, is at the edge: {edge}."
        return {"best": best, "minimum": None, "verdict": said}
    near = [*reversed(_beside(rows, at, -1)), at, *_beside(rows, at, 1)]
    found = minimum([(math.log(rows[i]["lr"]), values[i]) for i in near])
    lowest, highest = rows[near[0]]["lr"], rows[near[-1]]["lr"]
    if found is None or not lowest <= math.exp(found.x) <= highest:
        said = f"The best rate tried is {best:.3g}; a parabola near it has no minimum there."
        return {"best": best, "minimum": None, "verdict": said}
    return {"best": best, **_located(best, found.x, found.half_width, len(near))}


def _beside(rows: list[dict[str, Any]], at: int, side: int) -> list[int]:
    """Return up to `REACH` neighbours on one side that have a loss, the nearest first."""
    places = range(at + side, at + side * (REACH + 1), side)
    return list(takewhile(lambda i: 0 <= i < len(rows) and bool(rows[i]["loss"]), places))


def _edge(rows: list[dict[str, Any]], at: int) -> str:
    """Say what bounds the best rate on one side, if nothing was measured there."""
    if at == 0:
        return "no lower rate was tried"
    if at == len(rows) - 1:
        return "no higher rate was tried"
    for side, name in ((at - 1, "lower"), (at + 1, "higher")):
        if rows[side]["loss"] is None:
            what = "diverged" if rows[side]["n_diverged"] else "has no loss"
            return f"the next {name} rate, {rows[side]['lr']:.3g}, {what}"
    return ""


def _located(best: float, x: float, half_width: float | None, n: int) -> dict[str, Any]:
    lr = math.exp(x)
    said = f"The best rate tried is {best:.3g}; a parabola through {n} rates is lowest at {lr:.3g}"
    low = high = None
    if half_width is None:
        said += " (one seed: no interval)."
    elif math.isinf(half_width):
        said += " (no interval: within the noise it could be a line)."
    else:
        low, high = lr * math.exp(-half_width), lr * math.exp(half_width)
        said += f" (95 %: {low:.3g} to {high:.3g})."
    return {"minimum": {"lr": lr, "low": low, "high": high}, "verdict": said}
