"""Direct labels beside points: each goes where it covers the least."""

from __future__ import annotations

from braidlm.report import svg

Box = tuple[float, float, float, float]  # left, top, right, bottom

MAX_CHARS = 32
LINE = 15.0
GAP = 9.0


def place_labels(
    points: list[svg.Point],
    words: list[str],
    bars: list[tuple[float, float, float]],
    frame: Box,
) -> list[str]:
    """One text per point, away from marks, error bars, earlier labels and the edge.

    Args:
        points: where the labels belong, in units of the viewBox.
        words: the labels; one over `MAX_CHARS` characters is cut with an ellipsis.
        bars: x, top and bottom of the error bar of every mark that is drawn.
        frame: the plotting area.

    Returns:
        SVG per label; one that had to move away from its mark has a thin line to it.
    """
    taken: list[Box] = [
        (x - 6, (top + bottom) / 2 - 6, x + 6, (top + bottom) / 2 + 6) for x, top, bottom in bars
    ]
    taken += [(x - 3, top, x + 3, bottom) for x, top, bottom in bars]
    out = []
    for (x, y), word in zip(points, words, strict=True):
        shown = word if len(word) <= MAX_CHARS else word[: MAX_CHARS - 1] + "…"
        width = len(shown) * svg.CHAR_WIDTH
        box, anchor = min(_candidates(x, y, width), key=lambda c: _cost(c[0], taken, frame, x, y))
        taken.append(box)
        out.append(_leader(x, y, box) + _text(box, anchor, shown))
    return out


def _candidates(x: float, y: float, width: float) -> list[tuple[Box, str]]:
    """Right, left, above and below, then the same at growing distances."""
    out: list[tuple[Box, str]] = []
    for shift in (
        0.0,
        16.0,
        -16.0,
        32.0,
        -32.0,
        48.0,
        -48.0,
        64.0,
        -64.0,
        80.0,
        -80.0,
        112.0,
        -112.0,
    ):
        top = y - LINE / 2 + shift
        out.append(((x + GAP, top, x + GAP + width, top + LINE), "start"))
        out.append(((x - GAP - width, top, x - GAP, top + LINE), "end"))
        if abs(shift) >= 16:
            out.append(((x - width / 2, top, x + width / 2, top + LINE), "middle"))
    return out


def _cost(box: Box, taken: list[Box], frame: Box, x: float, y: float) -> float:
    outside = (
        max(0.0, frame[0] - box[0])
        + max(0.0, box[2] - frame[2])
        + max(0.0, frame[1] - box[1])
        + max(0.0, box[3] - frame[3])
    )
    covered = sum(_overlap(box, other) for other in taken)
    distance = abs((box[1] + box[3]) / 2 - y) + 0.1 * (box[2] < x)
    return 1000 * outside + 2 * covered + distance


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _text(box: Box, anchor: str, shown: str) -> str:
    x = {"start": box[0], "end": box[2], "middle": (box[0] + box[2]) / 2}[anchor]
    return svg.text(x, box[3] - 4, shown, anchor=anchor, cls="label")


def _leader(x: float, y: float, box: Box) -> str:
    centre = (box[1] + box[3]) / 2
    if abs(centre - y) < 20:
        return ""
    to_x = min(max(x, box[0]), box[2])
    to_y = box[1] if centre > y else box[3]
    return f'<path class="leader" d="M{svg.n(x)} {svg.n(y)}L{svg.n(to_x)} {svg.n(to_y)}"/>'
