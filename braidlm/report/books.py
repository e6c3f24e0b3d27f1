"""The figures of phonebook look-ups: by length, by place in the book, by digit."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from braidlm.report import plots, svg, units
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import Estimate

Rows = dict[str, list[dict[str, Any]]]
DIGIT_CHANCE = 0.1
"""Share of digits that a guess has right: all ten are equally frequent."""

PANEL, GAP, PER_ROW = 150.0, 16.0, 3
"""Width of one arm's grid, the room between two, and grids side by side."""
CELL, HEAD, FOOT, SIDE = 18.0, 22.0, 38.0, 34.0
"""Height of a cell, room above and below a grid, room for its depths."""


def figures(lookups: dict[str, Any], labels: dict[str, str], bars: str) -> list[Markup]:
    """Draw every phonebook task, each order by itself.

    Args:
        lookups: task -> order -> table -> arm -> rows, see `lookups.lookups`.
        labels: arm -> its label.
        bars: what an error bar is, in words.
    """
    found = []
    for task, orders in lookups.items():
        for order, tables in orders.items():
            name = (
                f"{task.split('-', 1)[-1]}, {order} order" if len(lookups) > 1 else f"{order} order"
            )
            found += [
                _length(tables["by_length"], labels, name, bars),
                _depth(tables["by_depth"], labels, name),
                _digit(tables["by_digit"], labels, name, bars),
            ]
    return [figure for figure in found if figure]


def _length(rows: Rows, labels: dict[str, str], name: str, bars: str) -> Markup:
    caption = (
        "Share of phonebook look-ups answered with the whole right number, by the tokens of book, "
        f"examples and query; {bars}."
    )
    numbers = _numbers(
        rows, labels, "length", {"exact": "Exact", "digits": "Digits right"}, "Tokens"
    )
    return drawn(by_length(rows, labels), f"Phonebook by length ({name})", caption, numbers)


def by_length(rows: Rows, labels: dict[str, str]) -> str | None:
    """Exact matches over the length of the items, in tokens."""
    points = _points(rows, "length", "exact")
    ticks = sorted({at for found in points.values() for at, _ in found})
    if not ticks:
        return None
    is_log = ticks[-1] / ticks[0] >= 4
    return plots.estimates(
        points,
        labels,
        svg.scale(ticks, plots.LEFT, plots.RIGHT, is_log=is_log, pad=0.08),
        titles=("Tokens" + (" (log scale)" if is_log else ""), "Exact (share of look-ups)"),
        name=lambda at: f"{units.plain(at)} tokens",
        x_ticks=ticks,
        limits=(0.0, 1.0),
    )


def _digit(rows: Rows, labels: dict[str, str], name: str, bars: str) -> Markup:
    caption = (
        "Share of digits that are right in their place, over all lengths; the dashed line is a "
        f"guess, one in ten; {bars}."
    )
    numbers = _numbers(rows, labels, "digit", {"right": "Right"}, "Digit")
    return drawn(by_digit(rows, labels), f"Phonebook digits ({name})", caption, numbers)


def by_digit(rows: Rows, labels: dict[str, str]) -> str | None:
    """Right digits over their place in the number, with the line of chance."""
    points = _points(rows, "digit", "right")
    ticks = sorted({at for found in points.values() for at, _ in found})
    if not ticks:
        return None
    return plots.estimates(
        points,
        labels,
        svg.scale(ticks, plots.LEFT, plots.RIGHT, pad=0.08),
        titles=("Digit of the number", "Right (share)"),
        name=lambda at: f"digit {units.plain(at)}",
        level=DIGIT_CHANCE,
        level_name="chance",
        x_ticks=ticks,
        limits=(0.0, 1.0),
    )


def _depth(rows: Rows, labels: dict[str, str], name: str) -> Markup:
    caption = (
        "Share of look-ups answered exactly: one grid per arm, tokens from left to right, the "
        "place of the entry in the book from its first (0) down to its last (1); full colour is "
        "1, none is 0, the mean over seeds."
    )
    found = [
        (
            labels[arm],
            units.plain(r["length"]),
            f"{r['start']:g} to {r['end']:g}",
            _told(r["exact"]),
        )
        for arm, lines in rows.items()
        for r in lines
    ]
    heads = ("Arm", "Tokens", "Place", "Exact")
    numbers = details("Numbers", plain_table(heads, found, name="Exact by place"))
    return drawn(by_depth(rows, labels), f"Phonebook by place ({name})", caption, numbers)


def by_depth(rows: Rows, labels: dict[str, str]) -> str | None:
    """A grid of cells for each arm: length by place, coloured by exact matches."""
    shown = [(i, arm, lines) for i, (arm, lines) in enumerate(rows.items()) if lines]
    if not shown:
        return None
    n_depths = max(len({r["start"] for r in lines}) for _, _, lines in shown)
    height = HEAD + n_depths * CELL + FOOT
    body = ""
    for number, (index, arm, lines) in enumerate(shown):
        left = (number % PER_ROW) * (PANEL + GAP)
        top = (number // PER_ROW) * height
        body += f'<g data-arm="{index}">{_grid(lines, labels[arm], left, top)}</g>'
    n_rows = math.ceil(len(shown) / PER_ROW)
    width = PER_ROW * PANEL + (PER_ROW - 1) * GAP
    return svg.figure(width, n_rows * height, body, title="Exact by length and place")


def _grid(lines: list[dict[str, Any]], label: str, left: float, top: float) -> str:
    lengths = sorted({r["length"] for r in lines})
    starts = sorted({r["start"] for r in lines})
    width = (PANEL - SIDE) / len(lengths)
    short = label if len(label) <= 20 else label[:19] + "…"
    out = svg.text(left + SIDE, top + 13, short, cls="label")
    for r in lines:
        x = left + SIDE + lengths.index(r["length"]) * width
        y = top + HEAD + starts.index(r["start"]) * CELL
        tip = f"{label}, {units.plain(r['length'])} tokens, place {_place(r)}"
        place = f'x="{svg.n(x)}" y="{svg.n(y)}" width="{svg.n(width)}" height="{svg.n(CELL)}"'
        opacity = f"{min(max(r['exact']['mean'], 0.0), 1.0):.3f}"
        said = escape(f"{tip}: {_told(r['exact'])}")
        out += f'<rect class="heat" {place} fill-opacity="{opacity}"/>'
        out += f'<rect class="cell" {place} data-tip="{said}" role="img" aria-label="{said}"/>'
    bottom = top + HEAD + len(starts) * CELL
    out += svg.text(left + SIDE - 5, top + HEAD + 12, "0", anchor="end", cls="tick")
    out += svg.text(left + SIDE - 5, bottom - 4, "1", anchor="end", cls="tick")
    for i, length in enumerate(lengths):
        if i in (0, len(lengths) - 1):
            at = left + SIDE + (i + 0.5) * width
            out += svg.text(at, bottom + 15, units.plain(length), anchor="middle", cls="tick")
    return out


def _place(row: dict[str, Any]) -> str:
    return f"{row['start']:g} to {row['end']:g}"


def _points(rows: Rows, key: str, column: str) -> dict[str, list[tuple[float, Estimate]]]:
    return {
        arm: [(r[key], Estimate(**r[column])) for r in lines if r.get(column)]
        for arm, lines in rows.items()
    }


def _numbers(
    rows: Rows, labels: dict[str, str], key: str, columns: dict[str, str], title: str
) -> Markup:
    found = [
        (labels[arm], units.plain(r[key]), *(_told(r.get(column)) for column in columns))
        for arm, lines in rows.items()
        for r in lines
    ]
    heads = ("Arm", title, *columns.values())
    return details("Numbers", plain_table(heads, found, name=f"Phonebook by {title.lower()}"))


def _told(entry: dict[str, Any] | None) -> str:
    return plots.told(Estimate(**entry)) if entry else units.MISSING
