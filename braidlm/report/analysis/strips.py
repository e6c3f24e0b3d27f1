"""Rows of dots on one axis: what each head of each layer has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from braidlm.report import svg, units
from braidlm.report.analysis.finding import half_width, said
from braidlm.report.analysis.picture import Row
from braidlm.report.stats import number

WIDTH, TOP, SIDE, FOOT = 500.0, 16.0, 12.0, 46.0
SLOT, LINE, ROW = 9.0, 22.0, 6.0
MANY = 72
"""Dots beyond which a row is one line, without ranges."""


@dataclass(frozen=True)
class Dot:
    """One value."""

    x: float
    tip: str
    low: float | None = None
    high: float | None = None
    colour: int | None = None
    """None: that of its row."""

    @classmethod
    def with_interval(
        cls, x: float, tip: str, stderr: float | None, n: int, colour: int | None = None
    ) -> Dot:
        """Return a dot whose line is the 95 % interval of a mean over n documents."""
        half = half_width(stderr, n)
        ends = (x - half, x + half) if math.isfinite(half) else (None, None)
        return cls(x, tip, *ends, colour)

    @classmethod
    def of(cls, row: Row, name: str, words: str, unit: str = "", colour: int | None = None) -> Dot:
        """Return the dot of a table's row with `name`, its standard error and n."""
        tip, stderr = f"{words}: {said(row, name, unit)}", number(row.get(f"{name}_stderr"))
        return cls.with_interval(row[name], tip, stderr, int(row["n"]), colour)


@dataclass(frozen=True)
class Strip:
    """The dots of one row; `colour` tells kinds apart."""

    label: str
    colour: int
    dots: tuple[Dot, ...]


def strips(
    rows: Sequence[Strip],
    x_title: str,
    *,
    title: str,
    is_log: bool = True,
    limits: tuple[float, ...] = (),
    bounds: tuple[float, float] = (-math.inf, math.inf),
    marks: Sequence[tuple[float, str]] = (),
) -> str | None:
    """Draw the rows from top to bottom; None without a dot.

    Args:
        rows: what is drawn; on a log scale dots at or below 0 lie at the left end.
        x_title: of the axis.
        title: the drawing's accessible name.
        is_log: whether the axis is logarithmic.
        limits: values that the axis must hold besides.
        bounds: of what can be, such as 0 and 1 of a share: the axis holds them, lines end there.
        marks: vertical lines with a word each, such as the context.
    """
    rows = [replace(row, dots=tuple(_within(dot, *bounds) for dot in row.dots)) for row in rows]
    n_dots = sum(len(row.dots) for row in rows)
    if not n_dots:
        return None
    is_many = n_dots > MANY
    left = 14 + svg.CHAR_WIDTH * max(len(row.label) for row in rows)
    heights = [LINE if is_many else max(LINE, SLOT * len(row.dots) + ROW) for row in rows]
    bottom = TOP + sum(heights)
    values = [v for row in rows for d in row.dots for v in (d.x, *_range(d, is_many))]
    values += [*limits, *filter(math.isfinite, bounds), *(at for at, _ in marks)]
    x = svg.scale(values, left, WIDTH - SIDE, is_log=is_log)
    body, top = [_axis(x, bottom, x_title)], TOP
    for row, height in zip(rows, heights, strict=True):
        body.append(_strip(row, x, top, height, is_many))
        top += height
    body += [_mark(x(at), bottom, words) for at, words in marks]
    return svg.figure(WIDTH, bottom + FOOT, "".join(body), title=title)


def _within(dot: Dot, least: float, most: float) -> Dot:
    low, high = (None if e is None else min(max(e, least), most) for e in (dot.low, dot.high))
    return replace(dot, low=low, high=high)


def _range(dot: Dot, is_many: bool) -> list[float]:
    return [] if is_many else [v for v in (dot.low, dot.high) if v is not None]


def _strip(row: Strip, x: svg.Scale, top: float, height: float, is_many: bool) -> str:
    out = f'<path class="grid" d="M{svg.n(x.start)} {svg.n(top + height)}H{svg.n(x.end)}"/>'
    out += svg.text(x.start - 8, top + height / 2 + 4, row.label, anchor="end", cls="tick")
    for i, dot in enumerate(row.dots):
        colour = row.colour if dot.colour is None else dot.colour
        slot = 0 if is_many else i - (len(row.dots) - 1) / 2
        y = top + height / 2 + slot * SLOT
        if not is_many and dot.low is not None and dot.high is not None:
            ends = f"M{svg.n(x(dot.low))} {svg.n(y)}H{svg.n(x(dot.high))}"
            out += f'<path class="error {svg.style_of(colour)}" d="{ends}"/>'
        out += svg.marker(x(dot.x), y, colour, r=3.6, tip=dot.tip)
    return out


def _axis(x: svg.Scale, bottom: float, title: str) -> str:
    out = f'<path class="axis" d="M{svg.n(x.start)} {svg.n(bottom)}H{svg.n(x.end)}"/>'
    ticks = x.ticks(6)
    form = units.plain if x.is_log else units.even(ticks)
    for tick in ticks:
        at = svg.n(x(tick))
        out += f'<path class="grid" d="M{at} {svg.n(TOP)}V{svg.n(bottom)}"/>'
        out += svg.text(x(tick), bottom + 17, form(tick), anchor="middle", cls="tick")
    middle = (x.start + x.end) / 2
    return out + svg.text(middle, bottom + 37, title, anchor="middle", cls="title")


def _mark(at: float, bottom: float, words: str) -> str:
    line = f'<path class="level" d="M{svg.n(at)} {svg.n(TOP)}V{svg.n(bottom)}"/>'
    return line + svg.text(at, TOP - 4, words, anchor="middle", cls="note")
