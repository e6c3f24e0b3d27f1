"""Grids of cells, one grid per arm: a share by two numbers, such as length and depth."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

from braidlm.report import plots, svg, units
from braidlm.report.stats import Estimate

WIDTH, GAP, PER_ROW = 482.0, 16.0, 3
"""Width of the figure, the room between two grids, and grids side by side at most."""
CELL, HEAD, FOOT, SIDE = 18.0, 22.0, 38.0, 42.0
"""Height of a cell, room above and below a grid, room for the names of its rows."""
WIDEST, READABLE, TICK = 60.0, 23.0, 44.0
"""Width of a cell at most, of one that holds its number, and of one with a tick of its own."""


class Cell(NamedTuple):
    """One cell."""

    x: float
    """Its column's number; columns are in order."""
    y: float
    """Its row's number; rows are in order, the smallest on top."""
    found: Estimate
    """A share: full colour is 1."""
    said: str
    """What its place is, in words."""


def draw(
    cells: dict[str, list[Cell]], labels: dict[str, str], *, ends: tuple[str, str], title: str
) -> str | None:
    """Draw a grid for each arm that has cells; None if none has.

    Args:
        cells: arm -> its cells; the arm's place gives its number in the legend.
        labels: arm -> its label.
        ends: names of the upper and of the lower edge.
        title: of the whole figure, for who does not see it.
    """
    shown = [(i, arm, found) for i, (arm, found) in enumerate(cells.items()) if found]
    if not shown:
        return None
    height = HEAD + max(len({c.y for c in found}) for _, _, found in shown) * CELL + FOOT
    body, per_row = "", min(PER_ROW, len(shown))
    panel = (WIDTH - (per_row - 1) * GAP) / per_row
    for number, (index, arm, found) in enumerate(shown):
        place = (number % per_row) * (panel + GAP), (number // per_row) * height
        body += f'<g data-arm="{index}">{_grid(found, labels[arm], place, panel, ends)}</g>'
    n_rows = math.ceil(len(shown) / per_row)
    return svg.figure(WIDTH, n_rows * height, body, title=title)


def _grid(
    found: list[Cell], label: str, place: tuple[float, float], panel: float, ends: tuple[str, str]
) -> str:
    left, top = place
    columns = sorted({cell.x for cell in found})
    rows = sorted({cell.y for cell in found})
    width = min(WIDEST, (panel - SIDE) / len(columns))
    n_fit = int((panel - SIDE) / svg.CHAR_WIDTH) + 4
    short = label if len(label) <= n_fit else label[: n_fit - 1] + "…"
    out = svg.text(left + SIDE, top + 13, short, cls="label")
    for cell in found:
        x = left + SIDE + columns.index(cell.x) * width
        y = top + HEAD + rows.index(cell.y) * CELL
        out += _drawn(cell, label, (x, y, width))
    bottom = top + HEAD + len(rows) * CELL
    out += svg.text(left + SIDE - 5, top + HEAD + 12, ends[0], anchor="end", cls="tick")
    out += svg.text(left + SIDE - 5, bottom - 4, ends[1], anchor="end", cls="tick")
    for i in range(len(columns)) if width >= TICK else sorted({0, len(columns) - 1}):
        at = left + SIDE + (i + 0.5) * width
        out += svg.text(at, bottom + 15, units.plain(columns[i]), anchor="middle", cls="tick")
    return out


def _drawn(cell: Cell, label: str, place: tuple[float, float, float]) -> str:
    x, y, width = place
    box = f'x="{svg.n(x)}" y="{svg.n(y)}" width="{svg.n(width)}" height="{svg.n(CELL)}"'
    share = min(max(cell.found.mean, 0.0), 1.0)
    n = f", n = {cell.found.n_items}" if cell.found.n_items else ""
    said = escape(f"{label}, {cell.said}: {plots.told(cell.found)}{n}")
    drawn = f'<rect class="heat" {box} fill-opacity="{share:.3f}"/>'
    if width >= READABLE:
        drawn += svg.text(x + width / 2, y + 13, f"{100 * share:.0f}", anchor="middle", cls="share")
    return drawn + (f'<rect class="cell" {box} data-tip="{said}" role="img" aria-label="{said}"/>')
