"""Tasks of questions in text: scores by length and by whatever else is reported apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from braidlm.report import grids, plots, svg, units
from braidlm.report.grids import Cell
from braidlm.report.html import Markup, details, drawn, join, plain_table, tag
from braidlm.report.load import Arm
from braidlm.report.series import row_estimates
from braidlm.report.stats import Estimate, as_dict, estimate, mean

Rows = dict[str, list[dict[str, Any]]]

SHOWN = ("answer_nll", "without_context", "without_context_nll")
"""What is told of every level beside the score."""
SIZES = {"length": "tokens", "documents": "documents"}
"""What a text's size is reported by, and in which unit."""


def questions(arms: list[Arm]) -> dict[str, dict[str, Any]]:
    """The question tasks that any run has a result of.

    Returns:
        "<kind>-<name>" -> `metric`, `unit`, `whole` (arm -> what the whole task gave) and `levels`:
        key, such as "length" -> arm -> rows; `cells`: arm -> rows of one of `SIZES`, `depth` and
        `share` where a task has both, else {}. What is given is an estimate over seeds of the
        metric and of each of `SHOWN`; a row also holds its `level`, a number or a word.
    """
    found: dict[str, dict[str, Any]] = {}
    for stem in sorted({s for arm in arms for run in arm.runs for s in run.results}):
        results = {
            arm.name: [run.results[stem] for run in arm.runs if _asks(run.results.get(stem))]
            for arm in arms
        }
        if any(results.values()):
            found[stem] = _task({arm: some for arm, some in results.items() if some})
    return found


def _asks(result: dict[str, Any] | None) -> bool:
    return result is not None and result.get("form") == "questions"


def _task(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    first = next(iter(results.values()))[0]
    metric = str(first.get("metric"))
    tables = dict.fromkeys(
        t for some in results.values() for r in some for t in r.get("tables") or {}
    )
    keys = [t.removeprefix("by_") for t in tables if t not in ("by_group", "by_needle")]
    levels = {
        key: {arm: _levels(some, key, metric) for arm, some in results.items()} for key in keys
    }
    cells = {arm: _cells(some) for arm, some in results.items()}
    return {
        "metric": metric,
        "unit": str(((first.get("metrics") or {}).get(metric) or {}).get("unit") or ""),
        "whole": {arm: _whole(some, metric) for arm, some in results.items()},
        "levels": {key: arms for key, arms in levels.items() if any(arms.values())},
        "cells": cells if any(cells.values()) else {},
    }


def _whole(results: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    cells = {
        name: [(result.get("metrics") or {}).get(name) or {} for result in results]
        for name in (metric, *SHOWN)
    }
    found = {
        name: estimate((c.get("value"), c.get("stderr"), c.get("n")) for c in some)
        for name, some in cells.items()
    }
    return {name: as_dict(e) for name, e in found.items() if e is not None}


def _levels(results: list[dict[str, Any]], key: str, metric: str) -> list[dict[str, Any]]:
    lines: dict[Any, list[dict[str, Any]]] = {}
    for result in results:
        for line in (result.get("tables") or {}).get(f"by_{key}") or []:
            if isinstance(line.get(key), int | float | str):
                lines.setdefault(line[key], []).append(line)
    rows = []
    for level, some in lines.items():
        row: dict[str, Any] = {"level": level}
        for name in (metric, *SHOWN):
            found = estimate((x.get(name), x.get(f"{name}_stderr"), x.get("n")) for x in some)
            row |= {} if found is None else {name: as_dict(found)}
        rows.append(row)
    return rows


def _cells(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found by size and depth: of needles if they are told apart, else of items."""
    for size in SIZES:
        for table, column in (("by_needle", "recall"), ("by_group", "")):
            name = column or str(results[0].get("metric"))
            found = row_estimates(results, table, (size, "depth"), name, f"{name}_stderr")
            if found:
                return [{size: at, "depth": depth, "share": as_dict(e)} for (at, depth), e in found]
    return []


def figures(tasks: dict[str, dict[str, Any]], labels: dict[str, str], bars: str) -> list[Markup]:
    """Draw every question task: a line for each arm over each numeric key, else a table.

    Args:
        tasks: see `questions`.
        labels: arm -> its label.
        bars: what an error bar is, in words.
    """
    return [figure for stem, task in tasks.items() for figure in _figures(stem, task, labels, bars)]


def _figures(stem: str, task: dict[str, Any], labels: dict[str, str], bars: str) -> list[Markup]:
    title, metric = stem.partition("-")[2], task["metric"]
    said = metric.replace("_", " ")
    found, tables = [], []
    for key, rows in task["levels"].items():
        numbers = _numbers(rows, labels, key, metric)
        figure = by_level(rows, task, labels, key)
        if figure is None:
            tables.append(numbers)
            continue
        caption = f"Questions of {stem}: {said} by {key}; {bars}."
        if _without(task) is not None:
            caption += " Dashed: the same questions without their text, the mean over arms."
        found.append(drawn(figure, f"{title} by {key}", caption, details("Numbers", numbers)))
    found += [figure] if (figure := _grid(title, stem, task, labels)) else []
    if not found:
        rows = {arm: [{"level": "all", **whole}] for arm, whole in task["whole"].items()}
        tables.insert(0, _numbers(rows, labels, "questions", metric))
    if tables:
        caption = tag("figcaption", f"Questions of {stem}, scored by {said}; errors by their name.")
        found.append(tag("figure", tag("h3", title), join(tables), caption))
    return found


def _grid(title: str, stem: str, task: dict[str, Any], labels: dict[str, str]) -> Markup:
    there = (row for some in task["cells"].values() for row in some)
    size = next((size for row in there for size in SIZES if size in row), "length")
    unit = SIZES[size]
    cells = {
        arm: [
            Cell(
                row[size],
                row["depth"],
                Estimate(**row["share"]),
                f"{units.plain(row[size])} {unit}, depth {row['depth']:g}",
            )
            for row in rows
        ]
        for arm, rows in task["cells"].items()
    }
    caption = (
        f"Share that {stem} found: one grid per arm, {unit} from left to right, the depth in the "
        "text from its beginning down to its end; full colour is 1, none is 0, the mean over "
        "seeds. Numbers in cells are percent; the table and the pointer tell their errors and n."
    )
    rows = [
        (
            labels[arm],
            units.plain(cell.x),
            units.plain(cell.y),
            plots.told(cell.found),
            cell.found.n_items or units.MISSING,
        )
        for arm, some in cells.items()
        for cell in some
    ]
    heads = ("Arm", unit.capitalize(), "Depth", "Share", "n")
    numbers = details("Numbers", plain_table(heads, rows, name=f"{title} by {size} and depth"))
    depths = [cell.y for some in cells.values() for cell in some]
    ends = (f"{min(depths):g} %", f"{max(depths):g} %") if depths else ("", "")
    figure = grids.draw(cells, labels, ends=ends, title=f"Share by {size} and depth")
    return drawn(figure, f"{title} by {size} and depth", caption, numbers)


def by_level(rows: Rows, task: dict[str, Any], labels: dict[str, str], key: str) -> str | None:
    """The score over a numeric key; None where the key's values are words, or only one."""
    metric = task["metric"]
    levels = _distinct(row["level"] for lines in rows.values() for row in lines)
    if len(levels) < 2 or any(isinstance(level, str) for level in levels):
        return None
    points = {
        arm: [(row["level"], Estimate(**row[metric])) for row in lines if row.get(metric)]
        for arm, lines in rows.items()
    }
    is_log = levels[0] > 0 and levels[-1] / levels[0] >= 4
    unit = "tokens" if key == "length" else key
    title = f"{key.capitalize()}{' (tokens)' if key == 'length' else ''}"
    return plots.estimates(
        points,
        labels,
        svg.scale(levels, plots.LEFT, plots.RIGHT, is_log=is_log, pad=0.08),
        titles=(
            title + (" (log scale)" if is_log else ""),
            f"{metric.replace('_', ' ').capitalize()} ({task['unit']})",
        ),
        name=lambda at: f"{units.plain(at)} {unit}",
        level=_without(task),
        level_name="without the text",
        x_ticks=levels,
        limits=(0.0, 1.0) if task["unit"] == "share" else (),
    )


def _distinct(levels: Iterable[Any]) -> list[Any]:
    found = set(levels)
    return list(found) if any(isinstance(level, str) for level in found) else sorted(found)


def _without(task: dict[str, Any]) -> float | None:
    known = [w["without_context"]["mean"] for w in task["whole"].values() if "without_context" in w]
    return mean(known) if known else None


def _numbers(rows: Rows, labels: dict[str, str], key: str, metric: str) -> Markup:
    names = (metric, *SHOWN)
    there = [n for n in names if any(n in row for lines in rows.values() for row in lines)]
    found = [
        (labels[arm], _shown(row["level"]), *(_told(row.get(name)) for name in there))
        for arm, lines in rows.items()
        for row in lines
    ]
    heads = ("Arm", key.capitalize(), *(name.replace("_", " ").capitalize() for name in there))
    return plain_table(heads, found, name=f"{metric.replace('_', ' ')} by {key}")


def _shown(level: Any) -> str:
    return level if isinstance(level, str) else units.plain(level)


def _told(entry: dict[str, Any] | None) -> str:
    return plots.told(Estimate(**entry)) if entry else units.MISSING
