"""A grid of cells, such as layers by heads: the fuller the colour, the larger the share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from braidlm.report import svg

WIDTH, HEAD, CELL, FOOT = 500.0, 8.0, 22.0, 40.0
WIDEST = 46.0


@dataclass(frozen=True)
class Square:
    """One cell: a share of 0 to 1 (None: nothing is known), and what is said of it."""

    share: float | None
    tip: str


def heat(
    rows: Sequence[tuple[str, Sequence[Square]]],
    columns: Sequence[str],
    x_title: str,
    *,
    title: str,
) -> str | None:
    """Draw the cells of every row; rows may be of different lengths. None without a cell.

    Args:
        rows: a label and the cells from left to right.
        columns: names under the columns; as many as the longest row has cells.
        x_title: what the columns are.
        title: the drawing's accessible name.
    """
    n_columns = max((len(cells) for _, cells in rows), default=0)
    if not n_columns:
        return None
    left = 14 + svg.CHAR_WIDTH * max(len(label) for label, _ in rows)
    width = min(WIDEST, (WIDTH - left - 4) / n_columns)
    out = ""
    for i, (label, cells) in enumerate(rows):
        top = HEAD + i * CELL
        out += svg.text(left - 8, top + CELL / 2 + 4, label, anchor="end", cls="tick")
        out += "".join(_square(cell, left + j * width, top, width) for j, cell in enumerate(cells))
    bottom = HEAD + len(rows) * CELL
    free_from = 0.0
    for j, name in enumerate(columns):
        at, half = left + (j + 0.5) * width, len(name) * svg.CHAR_WIDTH / 2
        if at - half >= free_from:
            out += svg.text(at, bottom + 15, name, anchor="middle", cls="tick")
            free_from = at + half + svg.CHAR_WIDTH
    middle = left + n_columns * width / 2
    out += svg.text(middle, bottom + 33, x_title, anchor="middle", cls="title")
    return svg.figure(WIDTH, bottom + FOOT, out, title=title)


def _square(cell: Square, x: float, y: float, width: float) -> str:
    place = f'x="{svg.n(x)}" y="{svg.n(y)}" width="{svg.n(width)}" height="{svg.n(CELL)}"'
    opacity = 0.0 if cell.share is None else min(max(cell.share, 0.0), 1.0)
    said = escape(cell.tip)
    return (
        f'<rect class="heat" {place} fill-opacity="{opacity:.3f}"/>'
        f'<rect class="cell" {place} data-tip="{said}" role="img" aria-label="{said}"/>'
    )
