"""Drawing primitives: scales, axes, lines, bands, error bars, markers; units of the viewBox."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

N_COLOURS = 7
_DASHES = ("", "7 3", "2 3")
_MARKERS = ("circle", "square", "triangle", "diamond", "down")
CHAR_WIDTH = 7.3
"""Layout width of one character: wider than most, so that a label never runs over its neighbour."""


@dataclass(frozen=True)
class Scale:
    """Maps data in [low, high] onto [start, end] of the drawing, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value. On a log scale, values at or below zero lie at the low end."""
        if self.is_log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the range: 1, 2, 5 steps, or powers on a log scale."""
        if not self.is_log:
            return _linear_ticks(self.low, self.high, about)
        return _log_ticks(self.low, self.high, about)


def scale(
    values: Iterable[float], start: float, end: float, *, is_log: bool = False, pad: float = 0.05
) -> Scale:
    """A scale that holds all finite values with some air. Zeros do not count on a log scale.

    Without a usable value the range is 0..1 (1..10 on a log scale); a single value is centred.
    """
    usable = [v for v in values if math.isfinite(v) and (v > 0 or not is_log)]
    if not usable:
        return Scale(1.0, 10.0, start, end, True) if is_log else Scale(0.0, 1.0, start, end)
    low, high = min(usable), max(usable)
    if is_log:
        ratio = (high / low) ** pad if high > low else 2.0
        return Scale(low / ratio, high * ratio, start, end, True)
    air = (high - low) * pad if high > low else abs(low) * 0.1 or 0.5
    return Scale(low - air, high + air, start, end)


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if 2 <= len(found) <= about:
            break
    else:
        found = found[:: max(1, math.ceil(len(found) / about))]
    return found if len(found) >= 2 else _linear_ticks(low, high, about)


def byte_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Powers of two between low and high, thinned to at most `about`."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    stride = max(1, math.ceil(len(powers) / about))
    return [2.0**k for k in powers if (k - powers[0]) % stride == 0]


@dataclass(frozen=True)
class Frame:
    """The plotting area: x and y scales whose start and end are its edges."""

    x: Scale
    y: Scale

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.x.start, self.y.end, self.x.end, self.y.start

    def at(self, x: float, y: float) -> Point:
        """The place of a data point."""
        return self.x(x), self.y(y)


def n(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def text(
    x: float, y: float, words: str, *, anchor: str = "start", cls: str = "", turn: bool = False
) -> str:
    """Escaped text. anchor: start, middle, end. turn: upright, reading from below."""
    turned = f' transform="rotate(-90 {n(x)} {n(y)})"' if turn else ""
    named = f' class="{cls}"' if cls else ""
    return (
        f'<text x="{n(x)}" y="{n(y)}" text-anchor="{anchor}"{named}{turned}>{escape(words)}</text>'
    )


def axes(
    frame: Frame,
    x_title: str,
    y_title: str,
    *,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_format: Callable[[float], str],
    y_format: Callable[[float], str],
) -> str:
    """Grid lines, tick labels and titles; an x label that would touch the last one is left out."""
    left, top, right, bottom = frame.box
    out, free_from = [], -math.inf
    for tick in y_ticks:
        y = frame.y(tick)
        out.append(f'<path class="grid" d="M{n(left)} {n(y)}H{n(right)}"/>')
        out.append(text(left - 7, y + 4, y_format(tick), anchor="end", cls="tick"))
    for tick in x_ticks:
        x, label = frame.x(tick), x_format(tick)
        out.append(f'<path class="axis" d="M{n(x)} {n(bottom)}v4"/>')
        half = len(label) * CHAR_WIDTH / 2
        if x - half >= free_from:
            out.append(text(x, bottom + 18, label, anchor="middle", cls="tick"))
            free_from = x + half + CHAR_WIDTH
    out.append(f'<path class="axis" d="M{n(left)} {n(bottom)}H{n(right)}"/>')
    out.append(text((left + right) / 2, bottom + 38, x_title, anchor="middle", cls="title"))
    out.append(text(14, (top + bottom) / 2, y_title, anchor="middle", cls="title", turn=True))
    return "".join(out)


def style_of(index: int) -> str:
    """Classes of an arm: colour, so that neighbours differ."""
    return f"c{index % N_COLOURS}"


def line(points: Sequence[Point], index: int) -> str:
    """A polyline in the arm's colour and dash; nothing below two points."""
    if len(points) < 2:
        return ""
    dash = _DASHES[index // N_COLOURS % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    path = "L".join(f"{n(x)} {n(y)}" for x, y in points)
    return f'<path class="line {style_of(index)}"{dashed} d="M{path}"/>'


def band(lower: Sequence[Point], upper: Sequence[Point], index: int) -> str:
    """The area between two lines; nothing below two points."""
    if len(lower) < 2:
        return ""
    path = "L".join(f"{n(x)} {n(y)}" for x, y in [*lower, *reversed(upper)])
    return f'<path class="band {style_of(index)}" d="M{path}Z"/>'


def error_bar(x: float, y_low: float, y_high: float, index: int, *, cap: float = 3.5) -> str:
    """A vertical bar with caps, between two places."""
    path = (
        f"M{n(x)} {n(y_low)}V{n(y_high)}"
        f"M{n(x - cap)} {n(y_low)}h{n(2 * cap)}M{n(x - cap)} {n(y_high)}h{n(2 * cap)}"
    )
    return f'<path class="error {style_of(index)}" d="{path}"/>'


def marker(
    x: float, y: float, index: int, *, r: float = 4.2, tip: str = "", focus: bool = False
) -> str:
    """The arm's mark: colour and shape tell arms apart; `tip` is shown on hover and focus."""
    extra = ' tabindex="0"' if focus else ""
    told = f' data-tip="{escape(tip)}" role="img" aria-label="{escape(tip)}"' if tip else ""
    shape = _MARKERS[index % len(_MARKERS)]
    return f'<path class="mark {style_of(index)}"{told}{extra} d="{_outline(shape, x, y, r)}"/>'


def _outline(shape: str, x: float, y: float, r: float) -> str:
    if shape == "circle":
        arc = f"a{n(r)} {n(r)} 0 1 0"
        return f"M{n(x - r)} {n(y)}{arc} {n(2 * r)} 0{arc} {n(-2 * r)} 0Z"
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "down": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[shape]
    return "M" + "L".join(f"{n(x + dx * r)} {n(y + dy * r)}" for dx, dy in corners) + "Z"


def figure(width: float, height: float, body: str, *, title: str, cls: str = "plot") -> str:
    """A scalable drawing with an accessible name."""
    return (
        f'<svg class="{cls}" viewBox="0 0 {n(width)} {n(height)}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )
