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


def tokens_of_stages(arm: Arm) -> int | None:
    """Return the tokens that all stages of a conversion read; None for an arm that is none.

    The config of such a run is that of its last stage.
    """
    for run in conversions(arm):
        read = {str(row.get("stage")): number(row.get("tokens")) for row in run["stages"]}
        if any(read.values()):
            return int(sum(n for n in read.values() if n is not None))
    return None


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
    "± is the standard error over items. Below a stage's value is its change against the teacher, "
    "paired by item, ± the half width of its 95 % interval. A stage's loss is in its own unit: "
    "mixers and hidden are shares of what the teacher gives that is missed, logits and text nats "
    "per token. The arm's tokens are those of all stages; its FLOPs are left out, since stages "
    "train parts of the student and the teacher reads too. Harm is what the teacher loses when "
    "one attention alone is replaced."
)


def _one(label: str, run: Row, with_seed: bool) -> Markup:
    name = f"{label}, seed {run['seed']}" if with_seed else label
    parts: list[Markup] = [tag("h3", name)]
    if run["stages"]:
        parts.append(_stages(run["stages"], f"Stages of {name}"))
    if run["layers"]:
        parts.append(_layers(run["layers"], f"Layers of {name}"))
    return join(parts)


def _stages(rows: list[Row], name: str) -> Markup:
    """A row for each stage: what it was asked, a column for each task, and what it was trained."""
    tasks = _tasks(rows)
    heads = [Head("Stage"), *tasks.values()]
    heads += [Head(title, "num") for title in ("Steps", "Tokens", "Loss")]
    shown = []
    for stage, own in _grouped(rows, "stage").items():
        asked = {_task(row): row for row in own}
        training = [_number(own[0], key, 0) for key in ("steps", "tokens")]
        cells = [_asked(asked.get(task, {})) for task in tasks]
        shown.append([Cell(stage), *cells, *training, _number(own[0], "loss", 4)])
    return table(heads, shown, name=name)


def _layers(rows: list[Row], name: str) -> Markup:
    """A row for each attention: its harm, a column for each task, and whether it stays."""
    tasks = _tasks(rows)
    heads = [Head("Attention"), *tasks.values(), Head("Mean rank", "num"), Head("Stays")]
    shown = []
    for layer, own in _grouped(rows, "layer").items():
        asked = {_task(row): row for row in own}
        cells = [_harm(asked.get(task, {})) for task in tasks]
        stays = Cell("yes" if own[0].get("is_kept") is True else "")
        shown.append([Cell(layer), *cells, _number(own[0], "mean_rank", 2), stays])
    return table(heads, shown, name=name)


def _grouped(rows: list[Row], key: str) -> dict[str, list[Row]]:
    """The rows of each value of `key`, in the order in which they come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row.get(key, MISSING)), []).append(row)
    return found


def _task(row: Row) -> tuple[str, str]:
    return str(row.get("task", MISSING)), str(row.get("metric", ""))


def _tasks(rows: list[Row]) -> dict[tuple[str, str], Head]:
    """The head of each task, with its metric and unit."""
    found: dict[tuple[str, str], Head] = {}
    for row in rows:
        task, metric = _task(row)
        about = ", ".join(part for part in (metric, str(row.get("unit", ""))) if part)
        found.setdefault(
            (task, metric), Head(tag("span", task, Markup("<br>"), tag("small", about)), "num")
        )
    return found


def _asked(row: Row) -> Cell:
    """A value and its error; below it the change against the teacher."""
    parts: list[object] = [_measured(row, "value", "stderr")]
    if number(row.get("change")) is not None:
        parts.append(tag("small", _measured(row, "change", "half_width", signed=True)))
    return Cell(join(parts), number(row.get("value")), "num")


def _harm(row: Row) -> Cell:
    """What is lost without an attention, and its rank among them below."""
    parts: list[object] = [_measured(row, "harm", "stderr", signed=True)]
    if number(row.get("rank")) is not None:
        parts.append(tag("small", f"rank {row['rank']:.0f}"))
    return Cell(join(parts), number(row.get("harm")), "num")


def _measured(row: Row, value: str, error: str, *, signed: bool = False) -> str:
    """A number with the decimals of its error, and the error."""
    found, spread = number(row.get(value)), number(row.get(error))
    if found is None:
        return ""
    places = decimals(spread)
    sign = "+" if signed and found > 0 else ""
    told = "" if spread is None else f" ± {fixed(spread, places)}"
    return f"{sign}{fixed(found, places)}{told}"


def _number(row: Row, key: str, places: int) -> Cell:
    found = number(row.get(key))
    return Cell("" if found is None else f"{found:,.{places}f}", found, "num")
