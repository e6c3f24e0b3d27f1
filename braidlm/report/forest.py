"""A forest plot: one line per comparison, its difference with the interval against zero."""

from __future__ import annotations

from typing import Any

from braidlm.report import svg, units
from braidlm.report.findings import interval

WIDTH, LEFT, RIGHT = 500.0, 12.0, 488.0
ROW, TOP, AXIS = 44.0, 8.0, 52.0
SEED_TICK = 5.0
"""Half of the height of the tick that marks one seed."""


def forest(
    rows: list[dict[str, Any]], labels: dict[str, str], order: list[str], *, title: str, ends: str
) -> str | None:
    """Draw the comparisons of one task; None where none has a number.

    Args:
        rows: comparisons of `treatments.treatments`.
        labels: arm -> its label.
        order: the report's arms, which decide on colour and mark.
        title: of the axis, with its unit.
        ends: which side of zero is better, in words.
    """
    known = [row for row in rows if "value" in row]
    if not known:
        return None
    reach = [0.0]
    for row in known:
        reach += [row["value"] - row["half_width"], row["value"] + row["half_width"]]
        reach += [row["low"], row["high"]]
    x = svg.scale(_without_endless(reach, known), LEFT, RIGHT, pad=0.06)
    bottom = TOP + ROW * len(known)
    frame = svg.Frame(x, svg.Scale(0.0, 1.0, bottom, TOP))
    body = [_axes(frame, title, ends)]
    for at, row in enumerate(known):
        y = TOP + ROW * at + 32
        index = order.index(row["arm"])
        body.append(_row(frame, y, row, labels, index))
    return svg.figure(WIDTH, bottom + AXIS, "".join(body), title=f"Forest plot: {title}")


def _without_endless(reach: list[float], rows: list[dict[str, Any]]) -> list[float]:
    """Leave intervals out of the range that would make a line of every other one.

    The t of two seeds has one degree of freedom: such an interval runs out of the frame.
    """
    seen = [v for row in rows for v in (*row["by_seed"], row["low"], row["high"])]
    low, high = min(0.0, *seen), max(0.0, *seen)
    room = 1.5 * ((high - low) or 1.0)
    return [min(max(value, low - room), high + room) for value in reach]


def _axes(frame: svg.Frame, title: str, ends: str) -> str:
    left, top, right, bottom = frame.box
    zero = frame.x(0.0)
    ticks = frame.x.ticks(6)
    drawn = svg.axes(
        svg.Frame(frame.x, frame.y),
        title,
        "",
        x_ticks=ticks,
        y_ticks=[],
        x_format=units.even(ticks),
        y_format=units.plain,
    )
    line = f'<path class="level" d="M{svg.n(zero)} {svg.n(top)}V{svg.n(bottom)}"/>'
    said = svg.text((left + right) / 2, bottom + 52, ends, anchor="middle", cls="note")
    return drawn + line + said


def _row(
    frame: svg.Frame, y: float, row: dict[str, Any], labels: dict[str, str], index: int
) -> str:
    name = f"{labels[row['arm']]} − {labels[row['control']]}"
    low, high = (row["value"] + sign * row["half_width"] for sign in (-1, 1))
    bounds = (frame.x.low, frame.x.high)
    ends = [frame.x(min(max(end, bounds[0]), bounds[1])) for end in (low, high)]
    cut = [low < bounds[0], high > bounds[1]]
    drawn = f"{units.plain(row['low'])} to {units.plain(row['high'])}"
    tip = f"{name}: {interval(row)}, bootstrap {drawn}"
    body = [svg.text(LEFT, y - 14, name, cls="row")]
    boxed = [frame.x(row["low"]), frame.x(row["high"])]
    corners = [(boxed[0], y - 4), (boxed[1], y - 4)], [(boxed[0], y + 4), (boxed[1], y + 4)]
    body.append(svg.band(*corners, index))
    body.append(_bar(ends[0], ends[1], y, cut, index))
    body += [_seed(frame.x(value), y, index) for value in row["by_seed"]]
    body.append(svg.marker(frame.x(row["value"]), y, index, tip=tip, focus=True))
    return f'<g data-arm="{index}">{"".join(body)}</g>'


def _bar(low: float, high: float, y: float, cut: list[bool], index: int) -> str:
    """A level bar; an end that lies outside the frame has an arrow instead of a cap."""
    path = f"M{svg.n(low)} {svg.n(y)}H{svg.n(high)}"
    for x, is_cut, way in ((low, cut[0], 1), (high, cut[1], -1)):
        path += (
            f"M{svg.n(x + 5 * way)} {svg.n(y - 4)}L{svg.n(x)} {svg.n(y)}l{svg.n(5 * way)} 4"
            if is_cut
            else f"M{svg.n(x)} {svg.n(y - 4)}v8"
        )
    return f'<path class="error {svg.style_of(index)}" d="{path}"/>'


def _seed(x: float, y: float, index: int) -> str:
    path = f"M{svg.n(x)} {svg.n(y - SEED_TICK)}v{svg.n(2 * SEED_TICK)}"
    return f'<path class="seed {svg.style_of(index)}" d="{path}"/>'
