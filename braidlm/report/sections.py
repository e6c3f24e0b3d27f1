"""The sections of the page that are text and tables, each from the data of `tables`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from braidlm.report import plots, units
from braidlm.report.html import Cell, Head, Markup, details, esc, join, plain_table, table, tag
from braidlm.report.stats import Estimate

Data = dict[str, Any]

MAX_RUNS = 4
"""Runs that are named one by one; more are counted."""


@dataclass(frozen=True)
class Shown:
    """How one column is written: its decimals, and which arms lead it ("best" or a dagger)."""

    places: int
    leads: dict[str, str]


def arms(data: Data) -> Markup:
    """The sortable table of arms and the note on its errors."""
    heads = [
        Head("Arm", first="ascending"),
        Head("Pattern", first="ascending"),
        Head("Parameters", "num", "ascending"),
        Head(_titled("Training FLOPs", "model FLOPs"), "num", "ascending"),
        Head(_titled("Cache", f"at {data['context']:,} tokens"), "num", "ascending"),
        *(
            Head(
                _titled(column["title"], _unit(column)),
                "num",
                "ascending" if column["better"] == "lower" else "descending",
            )
            for column in data["columns"]
        ),
    ]
    shown = {column["key"]: _shown(data, column) for column in data["columns"]}
    rows = [_arm_row(i, arm, data["columns"], shown) for i, arm in enumerate(data["arms"])]
    return join([table(heads, rows, name="Table of arms", cls="pin"), tag("p", _NOTE, cls="about")])


_NOTE = (
    "“Over seeds” is the standard error of the mean over training seeds; “over items” is the "
    "standard error over test items of one run (root mean square over seeds). Bold: the best mean. "
    "†: within error of the best. Training FLOPs are forward and backward, by the conventions of "
    "docs/cost.md. Cache is what one sequence keeps while decoding: a KV cache in bf16 that grows, "
    "and a state in fp32 that does not."
)


def _titled(title: str, below: str) -> Markup:
    return tag("span", title, Markup("<br>"), tag("small", below))


def _unit(column: Data) -> str:
    named = (
        column["unit"]
        if column["unit"].lower() not in ("", "share", "bits/byte", "bits per byte")
        else ""
    )
    return f"{named}, {column['better']} is better".removeprefix(", ")


def _shown(data: Data, column: Data) -> Shown:
    """Decimals that show two digits of the column's errors, and the arms level with the best."""
    entries = [arm["metrics"][column["key"]] for arm in data["arms"]]
    errors = [e for m in entries if m for e in (m["seed_stderr"], m["item_stderr"]) if e]
    places = min(units.decimals(min(errors)), units.decimals(max(errors)) + 1) if errors else 4
    lead = data["leads"].get(column["key"])
    if lead is None or not lead["others"]:
        return Shown(places, {})
    level = {name: "†" for name, gap in lead["others"].items() if gap["is_within_error"]}
    return Shown(places, level | {lead["best"]: "best"})


def _arm_row(index: int, arm: Data, columns: list[Data], shown: dict[str, Shown]) -> list[Cell]:
    active = arm["n_active_params"]
    is_sparse = active is not None and active != arm["n_params"]
    cache = (f"KV {units.size(arm['kv_bytes'])}", f"state {units.size(arm['state_bytes'])}")
    return [
        Cell(_label(index, arm), arm["label"]),
        Cell(tag("code", arm["pattern"] or units.MISSING), arm["pattern"], "pattern"),
        _number(
            units.count(arm["n_params"]),
            arm["n_params"],
            *([f"{units.count(active)} active"] if is_sparse else []),
        ),
        _number(units.flops(arm["training_flops"]), arm["training_flops"]),
        _number(
            units.size(arm["cache_bytes"]),
            arm["cache_bytes"],
            *(cache if arm["cache_bytes"] is not None else ()),
        ),
        *(_metric(arm["metrics"][c["key"]], shown[c["key"]], arm["name"]) for c in columns),
    ]


def _label(index: int, arm: Data) -> Markup:
    """The arm's name, and below it what was resized or differs from the model of its init."""
    told = {"resized": arm["changes"], "changed from its init": arm["init_changes"]}
    changed = [tag("small", f"{how}: {', '.join(what)}") for how, what in told.items() if what]
    return join([tag("span", Markup(plots.swatch(index)), arm["label"], cls="arm"), *changed])


def _number(shown: str, value: float | None, *below: str) -> Cell:
    return Cell(join([shown, *(tag("small", line) for line in below)]), value, "num")


def _metric(entry: Data | None, shown: Shown, arm: str) -> Cell:
    """A mean with its two errors apart."""
    if entry is None:
        return Cell(units.MISSING, None, "num")
    found, lead = Estimate(**entry), shown.leads.get(arm, "")
    value = units.fixed(found.mean, shown.places)
    lines = [tag("strong", value) if lead == "best" else esc(value + lead)]
    if found.seed_stderr is not None:
        error = units.fixed(found.seed_stderr, shown.places)
        lines.append(tag("small", f"± {error} over {found.n_seeds} seeds"))
    if found.item_stderr is not None:
        lines.append(tag("small", f"± {units.fixed(found.item_stderr, shown.places)} over items"))
    if found.n_seeds == 1:
        known = "item error only" if found.item_stderr is not None else "no error known"
        lines.append(tag("small", f"1 seed: {known}"))
    return Cell(join(lines), found.mean, "num")


def problems(data: Data) -> Markup:
    """Failed or unfinished runs, and results that were not measured alike."""
    warnings = [tag("p", caution, cls="warn") for caution in data["cautions"]]
    if not data["problems"]:
        return join(
            ["" if warnings else tag("p", "Every run ended and was measured alike."), *warnings]
        )
    rows = [
        (row["arm"], row["seed"], row["state"], _progress(row), row["error"])
        for row in data["problems"]
    ]
    heads = ("Arm", "Seed", "State", "Step", "Error")
    return join([*warnings, plain_table(heads, rows, name="Failed or unfinished runs")])


def _progress(row: Data) -> str:
    if row["step"] is None:
        return units.MISSING
    return f"{row['step']:.0f}" + (f" of {row['steps']:.0f}" if row["steps"] else "")


def reproduce(data: Data) -> Markup:
    """Commands, versions, operators and resolved configs."""
    found = data["reproduce"]
    commands = [_commented(*entry) for entry in _by_command(found["commands"]).items()]
    shown = (
        tag("pre", "\n".join(commands), tabindex="0")
        if commands
        else tag("p", "No command was recorded.")
    )
    measured = [
        [
            row[key]
            for key in ("run", "task", "step", "n", "device", "dtype", "operators", "code_version")
        ]
        for row in found["measured"]
    ]
    heads = ("Run", "Task", "Step", "Items", "Device", "Dtype", "Operators", "Code version")
    return join(
        [
            shown,
            plain_table(
                ("Environment", "Value"), _environment(found["environment"]), name="Environment"
            ),
            details(
                "How each result was measured", plain_table(heads, measured, name="Measurements")
            ),
            *(_config(arm, found["configs"][arm["name"]]) for arm in data["arms"]),
        ]
    )


def _by_command(entries: list[dict[str, str]]) -> dict[str, list[str]]:
    """Each command once, with the runs that it started."""
    runs: dict[str, list[str]] = {}
    for entry in entries:
        runs.setdefault(entry["command"], []).append(entry["run"])
    return runs


def _commented(command: str, runs: list[str]) -> str:
    return f"# {_runs(runs)}\n{command}"


def _environment(table_: dict[str, dict[str, list[str]]]) -> list[tuple[str, Markup]]:
    """One value when all runs agree; else each value with its runs."""
    rows = []
    for name, values in table_.items():
        several = len(values) > 1
        lines = [
            tag("div", tag("code", value), f" ({_runs(runs)})" if several else "")
            for value, runs in values.items()
        ]
        rows.append((name.replace("_", " "), join(lines)))
    return rows


def _runs(runs: list[str]) -> str:
    return units.listing(runs) if len(runs) <= MAX_RUNS else f"{len(runs)} runs"


def _config(arm: Data, config: Data) -> Markup:
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    inner = [tag("pre", text, tabindex="0")]
    if arm["overrides"]:
        changes = tag("pre", "\n".join(arm["overrides"]), tabindex="0")
        inner = [tag("p", "Changed by the study:"), changes, tag("p", "All of it:"), *inner]
    return details(f"Resolved config of {arm['label']}", *inner)
