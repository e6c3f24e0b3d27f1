"""Values over distances, numbers of heads, ...: lines of dots with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from braidlm.report import svg, units
from braidlm.report.analysis.finding import half_width, said
from braidlm.report.analysis.picture import Row
from braidlm.report.stats import number

WIDTH, HEIGHT = 500.0, 300.0
LEFT, TOP, RIGHT, BOTTOM = 68.0, 14.0, 486.0, 246.0
APART = 5.0
"""Sideways, so that the bars of two lines do not hide each other."""


@dataclass(frozen=True)
class Mark:
    """One value; `half` is that of its 95 % interval, infinite where none is known."""

    x: float
    y: float
    half: float
    tip: str

    @classmethod
    def of(cls, row: Row, x: float, name: str, words: str, unit: str = "") -> Mark:
        """Return the mark of a table's row with `name`, its standard error and n."""
        half = half_width(number(row.get(f"{name}_stderr")), int(row["n"]))
        return cls(x, row[name], half, f"{words}: {said(row, name, unit)}")

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; the value itself where there is none."""
        half = self.half if math.isfinite(self.half) else 0.0
        return self.y - half, self.y + half


@dataclass(frozen=True)
class Curve:
    """The values of one line."""

    colour: int
    marks: tuple[Mark, ...]


def curves(
    lines: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    title: str,
    is_log: bool = True,
    bounds: tuple[float, float] | None = None,
    holds: tuple[float, ...] | None = None,
    levels: Sequence[tuple[float, str]] = (),
    name: Callable[[float], str] = units.plain,
) -> str | None:
    """Draw the lines; None without a value.

    Args:
        lines: what is drawn.
        x_title: of the horizontal axis, and
        y_title: of the vertical one, which is linear.
        title: the drawing's accessible name.
        is_log: whether the horizontal axis is logarithmic.
        bounds: of what can be, such as 0 and 1 of a share: intervals are cut there.
        holds: values that the vertical axis must hold besides; None: the bounds.
        levels: horizontal lines with a word each.
        name: what is written below a place of the horizontal axis.
    """
    marks = [mark for line in lines for mark in line.marks]
    if not marks:
        return None
    low, high = bounds or (-math.inf, math.inf)
    heights = [end for mark in marks for end in mark.ends if low <= end <= high]
    heights += [*(holds or bounds or ()), *(at for at, _ in levels), *(mark.y for mark in marks)]
    x = svg.scale([mark.x for mark in marks], LEFT, RIGHT, is_log=is_log, pad=0.08)
    frame = svg.Frame(x, svg.scale(heights, BOTTOM, TOP))
    body = [_axes(frame, x_title, y_title, sorted({mark.x for mark in marks}), name)]
    free = _free(frame, sorted({mark.x for mark in marks}))
    body += [_level(frame, at, words, free) for at, words in levels]
    for i, line in enumerate(lines):
        body.append(_curve(frame, line, (i - (len(lines) - 1) / 2) * APART, (low, high)))
    return svg.figure(WIDTH, HEIGHT, "".join(body), title=title)


def _axes(
    frame: svg.Frame,
    x_title: str,
    y_title: str,
    places: Sequence[float],
    name: Callable[[float], str],
) -> str:
    return svg.axes(
        frame,
        x_title,
        y_title,
        x_ticks=places,
        y_ticks=frame.y.ticks(),
        x_format=name,
        y_format=units.even(frame.y.ticks()),
    )


def _curve(frame: svg.Frame, line: Curve, shift: float, bounds: tuple[float, float]) -> str:
    places = [(frame.x(mark.x) + shift, frame.y(mark.y)) for mark in line.marks]
    out = svg.line(places, line.colour)
    for (x, y), mark in zip(places, line.marks, strict=True):
        low, high = (min(max(end, bounds[0]), bounds[1]) for end in mark.ends)
        if high > low:
            out += svg.error_bar(x, frame.y(low), frame.y(high), line.colour)
        out += svg.marker(x, y, line.colour, tip=mark.tip)
    return out


def _free(frame: svg.Frame, places: Sequence[float]) -> float:
    """The middle of the widest gap between two places: no mark stands there."""
    gaps = [(frame.x(b) - frame.x(a), (frame.x(a) + frame.x(b)) / 2) for a, b in pairwise(places)]
    return max(gaps, default=(0.0, LEFT + (RIGHT - LEFT) / 4))[1]


def _level(frame: svg.Frame, value: float, words: str, at: float) -> str:
    y = frame.y(value)
    line = f'<path class="level" d="M{svg.n(LEFT)} {svg.n(y)}H{svg.n(RIGHT)}"/>'
    return line + svg.text(at, y - 5, words, anchor="middle", cls="note")
