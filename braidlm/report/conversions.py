"""Hybrids made from transformers: teacher, every stage, student, and which layers were chosen."""

from __future__ import annotations

from typing import Any

from braidlm.report.html import Cell, Head, Markup, join, table, tag
from braidlm.report.load import Arm
from braidlm.report.stats import number
from braidlm.report.units import MISSING, decimals, fixed

Row = dict[str, Any]
KIND = "convert"
TABLES = {"convert-stages": "stages", "convert-layers": "layers"}
"""Which table of which result is shown."""


def conversions(arm: Arm) -> list[Row]:
    """Return for each run of an arm that is a conversion `seed`, `stages` and `layers` (rows)."""
    found = []
    for run in arm.runs:
        tables = {
            name: _rows((run.results.get(stem, {}).get("tables") or {}).get(name))
            for stem, name in TABLES.items()
        }
        if any(tables.values()):
            found.append({"seed": run.seed, **tables})
    return found


def _rows(found: Any) -> list[Row]:
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def section(data: Row) -> Markup:
    """The tables of every conversion; empty without one."""
    labels = {arm["name"]: arm["label"] for arm in data["arms"]}
    parts = [
        _one(labels[name], run, len(runs) > 1)
        for name, runs in data["conversions"].items()
        for run in runs
    ]
    return join([*parts, tag("p", _NOTE, cls="about")]) if parts else Markup("")


_NOTE = (
    "± is the standard error over items. The change is against the teacher, paired by item, with "
    "the half width of its 95 % interval. A stage's loss is in its own unit: mixers and hidden are "
    "shares of what the teacher gives that is missed, logits and text nats per token. Harm is what "
    "the teacher loses when one attention alone is replaced."
)


def _one(label: str, run: Row, with_seed: bool) -> Markup:
    name = f"{label}, seed {run['seed']}" if with_seed else label
    parts: list[Markup] = [tag("h3", name)]
    if run["stages"]:
        heads = ("Stage", "Task", "Metric", "Value", "±", "Change", "95 %")
        heads += ("Steps", "Tokens", "Loss")
        rows = [_stage(row) for row in run["stages"]]
        parts.append(_table(heads, rows, f"Stages of {name}"))
    if run["layers"]:
        heads = ("Attention", "Task", "Metric", "Harm", "±", "Rank", "Mean rank", "Stays")
        rows = [_layer(row) for row in run["layers"]]
        parts.append(_table(heads, rows, f"Layers of {name}"))
    return join(parts)


def _table(heads: tuple[str, ...], rows: list[list[Cell]], name: str) -> Markup:
    return table([Head(h, "num" if i > 2 else "") for i, h in enumerate(heads)], rows, name=name)


def _stage(row: Row) -> list[Cell]:
    value = _measured(row, "value", "stderr")
    change = _measured(row, "change", "half_width", signed=True)
    training = [_number(row, key, 0) for key in ("steps", "tokens")] + [_number(row, "loss", 4)]
    unit = f", {row['unit']}" if row.get("unit") else ""
    return [*_words(row, "stage", "task"), Cell(f"{row.get('metric')}{unit}"), *value, *change,
            *training]  # fmt: skip


def _layer(row: Row) -> list[Cell]:
    stays = Cell("yes" if row.get("is_kept") is True else "", None, "num")
    ranks = [_number(row, "rank", 0), _number(row, "mean_rank", 2)]
    harm = _measured(row, "harm", "stderr", signed=True)
    return [*_words(row, "layer", "task", "metric"), *harm, *ranks, stays]


def _words(row: Row, *keys: str) -> list[Cell]:
    return [Cell(str(row.get(key, MISSING))) for key in keys]


def _measured(row: Row, value: str, error: str, *, signed: bool = False) -> list[Cell]:
    """A number with the decimals of its error, and the error."""
    found, spread = number(row.get(value)), number(row.get(error))
    places = decimals(spread)
    sign = "+" if signed and found is not None and found > 0 else ""
    shown = sign + fixed(found, places) if found is not None else ""
    told = fixed(spread, places) if spread is not None else ""
    return [Cell(shown, found, "num"), Cell(told, spread, "num")]


def _number(row: Row, key: str, places: int) -> Cell:
    found = number(row.get(key))
    return Cell("" if found is None else f"{found:,.{places}f}", found, "num")
