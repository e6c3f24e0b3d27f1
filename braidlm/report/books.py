"""The figures of phonebook look-ups: by length, by place in the book, by digit."""

from __future__ import annotations

from typing import Any

from braidlm.report import grids, plots, svg, units
from braidlm.report.grids import Cell
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import Estimate

Rows = dict[str, list[dict[str, Any]]]
DIGIT_CHANCE = 0.1
"""Share of digits that a guess has right: all ten are equally frequent."""


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
    cells = {
        arm: [
            Cell(
                r["length"],
                r["start"],
                Estimate(**r["exact"]),
                f"{units.plain(r['length'])} tokens, place {_place(r)}",
            )
            for r in lines
        ]
        for arm, lines in rows.items()
    }
    return grids.draw(cells, labels, ends=("0", "1"), title="Exact by length and place")


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
