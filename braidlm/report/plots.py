"""The figures of a report, each from the numbers of `tables` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from braidlm.report import svg, units
from braidlm.report.placing import place_labels
from braidlm.report.stats import Estimate

WIDTH, HEIGHT = 500.0, 330.0
LEFT, TOP, RIGHT, BOTTOM = 68.0, 14.0, 486.0, 276.0

MAX_LABELS = 8
"""Points that are all labelled; beyond, only those on the frontier are."""

SHARE = (0.0, 1.0)
"""The range of a share."""

Rows = dict[str, list[dict[str, Any]]]


def loss(series: Rows, *, is_log: bool) -> str | None:
    """Training loss (nats) over steps: the mean over seeds, a band from lowest to highest."""
    rows = [row for points in series.values() for row in points]
    if not rows:
        return None
    x = svg.scale([max(r["step"], 1.0) for r in rows], LEFT, RIGHT, is_log=is_log, pad=0.02)
    y = svg.scale(_without_spikes([v for r in rows for v in (r["low"], r["high"])]), BOTTOM, TOP)
    frame = svg.Frame(x, y)
    body = []
    for index, points in enumerate(series.values()):
        low = [frame.at(r["step"], r["low"]) for r in points]
        high = [frame.at(r["step"], r["high"]) for r in points]
        mean = [frame.at(r["step"], r["mean"]) for r in points]
        has_band = any(r["n_seeds"] > 1 for r in points)
        drawn = (svg.band(low, high, index) if has_band else "") + svg.line(mean, index)
        if len(mean) == 1:
            drawn += svg.marker(*mean[0], index, tip=_loss_tip(points[0]))
        body.append(_of_arm(index, drawn))
    title = "Training step (log scale)" if is_log else "Training step"
    axes = _axes(frame, title, "Training loss (nats)", units.steps)
    return svg.figure(WIDTH, HEIGHT, axes + _clipped(frame, "".join(body)), title=title)


def _without_spikes(values: list[float]) -> list[float]:
    """Leave the highest 1 % out of the range when they would flatten everything else."""
    ordered = sorted(values)
    low, typical = ordered[0], ordered[int(0.99 * (len(ordered) - 1))]
    spiked = ordered[-1] - low > 3 * (typical - low) > 0
    return [low, typical] if spiked else [low, ordered[-1]]


def _loss_tip(row: dict[str, Any]) -> str:
    return f"step {row['step']:.0f}: {units.plain(row['mean'])} nats"


def _clipped(frame: svg.Frame, body: str) -> str:
    left, top, right, bottom = frame.box
    return (
        f'<svg x="{svg.n(left)}" y="{svg.n(top)}" width="{svg.n(right - left)}" '
        f'height="{svg.n(bottom - top)}" viewBox="{svg.n(left)} {svg.n(top)} '
        f'{svg.n(right - left)} {svg.n(bottom - top)}">{body}</svg>'
    )


def by_position(series: Rows, labels: dict[str, str], trained: Sequence[float] = ()) -> str | None:
    """Held-out loss (nats per token) by position; upright lines mark the trained lengths."""
    points = {
        arm: [((r["start"] + r["end"]) / 2, Estimate(**r["nll"])) for r in rows]
        for arm, rows in series.items()
    }
    edges = [edge for rows in series.values() for r in rows for edge in (r["start"], r["end"])]
    if not edges:
        return None
    widths = [r["end"] - r["start"] for rows in series.values() for r in rows]
    is_log = max(edges) >= 4096 or max(widths) >= 8 * min(widths)
    x = svg.scale([x for rows in points.values() for x, _ in rows], LEFT, RIGHT, is_log=is_log)
    return estimates(
        points,
        labels,
        x,
        titles=(
            "Context before the token (tokens" + (", log scale)" if is_log else ")"),
            "Held-out loss (nats per token)",
        ),
        name=lambda at: f"{units.plain(at)} tokens of context",
        extra=[_upright(x(at), f"trained to {units.plain(at)}") for at in trained],
    )


def _upright(x: float, said: str) -> str:
    return f'<path class="level" d="M{svg.n(x)} {svg.n(TOP)}V{svg.n(BOTTOM)}"/>' + svg.text(
        x - 4, TOP + 11, said, anchor="end", cls="note"
    )


def by_pairs(
    series: Rows,
    labels: dict[str, str],
    metric: str,
    chance: float | None,
    guesses: list[dict[str, float]],
) -> str | None:
    """Accuracy or graded recall by the number of key-value pairs, with the lines of chance."""
    points = {
        arm: [(r["n_pairs"], Estimate(**r[metric])) for r in rows if r.get(metric)]
        for arm, rows in series.items()
    }
    ticks = sorted({at for rows in points.values() for at, _ in rows})
    if not ticks:
        return None
    is_log = ticks[0] > 0 and ticks[-1] / ticks[0] >= 4
    x = svg.scale(ticks, LEFT, RIGHT, is_log=is_log, pad=0.08)
    title = "Accuracy (share of queries)" if metric == "accuracy" else "Graded recall (nats)"
    return estimates(
        points,
        labels,
        x,
        titles=("Key–value pairs in context" + (" (log scale)" if is_log else ""), title),
        name=lambda at: f"{units.plain(at)} pairs",
        level=chance if metric == "accuracy" else 0.0,
        level_name="chance" if metric == "accuracy" else "no recall",
        x_ticks=ticks,
        limits=(0.0, 1.0) if metric == "accuracy" else (),
        guesses=guesses if metric == "accuracy" else [],
    )


def sweep(entries: list[dict[str, Any]]) -> str | None:
    """Loss (nats per token) against the learning rate (log scale), one line per width."""
    points = {
        f"{entry['width']}": [
            (row["lr"], Estimate(**row["loss"])) for row in entry["rows"] if row["loss"]
        ]
        for entry in entries
    }
    if not any(points.values()):
        return None
    rows = [(index, row) for index, entry in enumerate(entries) for row in entry["rows"]]
    x = svg.scale([row["lr"] for _, row in rows], LEFT, RIGHT, is_log=True, pad=0.08)
    return estimates(
        points,
        {width: f"width {width}" for width in points},
        x,
        titles=("Peak learning rate (log scale)", f"{entries[0]['measure'].capitalize()} (nats)"),
        name=lambda at: f"rate {at:.3g}",
        group=lambda _, body: body,  # these lines are widths: the legend of arms is not theirs
        extra=[
            svg.text(x(row["lr"]), TOP + 11 * (index + 1), "×", anchor="middle", cls="note")
            for index, row in rows
            if row["n_diverged"]
        ],
    )


def estimates(
    points: dict[str, list[tuple[float, Estimate]]],
    labels: dict[str, str],
    x: svg.Scale,
    *,
    titles: tuple[str, str],
    name: Callable[[float], str],
    level: float | None = None,
    level_name: str = "",
    x_ticks: list[float] | None = None,
    limits: tuple[float, ...] = (),
    guesses: Sequence[dict[str, float]] = (),
    group: Callable[[int, str], str] | None = None,
    extra: Sequence[str] = (),
    is_log: bool = False,
) -> str:
    """Lines through estimates with error bars; arms stand apart sideways so that bars show.

    Two `limits` are the range of the metric, beyond which no bar reaches; `is_log` is of y.
    """
    ends = [v for rows in points.values() for _, e in rows for v in _ends(e, limits)]
    values = [*ends, *limits, *([] if level is None else [level])]
    frame = svg.Frame(x, svg.scale(values, BOTTOM, TOP, is_log=is_log))
    body = [_axes(frame, *titles, units.plain, x_ticks=x_ticks)]
    line, note = ("", "") if level is None else _level(frame, level, level_name)
    body += [line, _guess_line(frame, guesses), *extra]
    step = min(5.0, 26.0 / max(len(points), 1))
    for index, (arm, rows) in enumerate(points.items()):
        shift = (index - (len(points) - 1) / 2) * step
        placed = [(frame.x(at) + shift, e, at) for at, e in rows]
        drawn = svg.line([(px, frame.y(e.mean)) for px, e, _ in placed], index)
        for px, e, at in placed:
            tip = f"{labels[arm]}, {name(at)}: {told(e)}"
            drawn += _bar(frame, px, e, index, limits)
            drawn += svg.marker(px, frame.y(e.mean), index, tip=tip)
        body.append((group or _of_arm)(index, drawn))
    body.append(note)  # over the bars that it may lie on
    return svg.figure(WIDTH, HEIGHT, "".join(body), title=f"{titles[1]} by {titles[0]}")


def _ends(found: Estimate, limits: Sequence[float]) -> tuple[float, float]:
    """One error to either side, inside the metric's range."""
    ends = (found.mean - found.stderr, found.mean + found.stderr)
    if len(limits) != 2:
        return ends
    low, high = (min(max(end, min(limits)), max(limits)) for end in ends)
    return low, high


def _bar(frame: svg.Frame, x: float, found: Estimate, index: int, limits: Sequence[float]) -> str:
    low, high = _ends(found, limits)
    return svg.error_bar(x, frame.y(low), frame.y(high), index) if high > low else ""


def _guess_line(frame: svg.Frame, guesses: Sequence[dict[str, float]]) -> str:
    """Guessing among the pairs in context: a dotted line without a mark."""
    places = [frame.at(g["n_pairs"], g["in_context_chance"]) for g in guesses]
    if len(places) < 2:
        return ""
    path = "L".join(f"{svg.n(x)} {svg.n(y)}" for x, y in places)
    return f'<path class="guess" d="M{path}"/>'


def _level(frame: svg.Frame, value: float, name: str) -> tuple[str, str]:
    """A dashed line, and what it is."""
    left, _, right, _ = frame.box
    y = frame.y(value)
    said = f"{name} {units.plain(value)}" if name == "chance" else name
    line = f'<path class="level" d="M{svg.n(left)} {svg.n(y)}H{svg.n(right)}"/>'
    return line, svg.text(right - 2, y - 5, said, anchor="end", cls="note")


def frontier(rows: list[dict[str, Any]], order: list[str], labels: dict[str, str]) -> str | None:
    """Recall against cache bytes (log scale), with labels at the points that `labelled` names."""
    if not rows:
        return None
    found = [(row["arm"], max(row["cache_bytes"], 1.0), Estimate(**row["recall"])) for row in rows]
    sizes = [nbytes for _, nbytes, _ in found]
    ends = [v for _, _, e in found for v in _ends(e, SHARE)]
    frame = svg.Frame(
        svg.scale(sizes, LEFT, RIGHT, is_log=True, pad=0.15), svg.scale(ends, BOTTOM, TOP, pad=0.15)
    )
    words = _labels(frame, found, labels, labelled(rows))
    body = [_byte_axes(frame, sizes)]
    for arm, nbytes, e in found:
        (px, py), index = frame.at(nbytes, e.mean), order.index(arm)
        tip = f"{labels[arm]}: {told(e)} at {units.size(nbytes)}"
        mark = svg.marker(px, py, index, r=5.2, tip=tip, focus=True)
        body.append(_of_arm(index, _bar(frame, px, e, index, SHARE) + mark + words.get(arm, "")))
    return svg.figure(WIDTH, HEIGHT, "".join(body), title="Recall against cache bytes")


def labelled(rows: list[dict[str, Any]]) -> list[str]:
    """Arms that get a label: all, or when they are many those that no arm beats on both axes."""
    if len(rows) <= MAX_LABELS:
        return [row["arm"] for row in rows]
    best, kept = -math.inf, []
    for row in sorted(rows, key=lambda r: (r["cache_bytes"], -r["recall"]["mean"])):
        if row["recall"]["mean"] > best:
            best = row["recall"]["mean"]
            kept.append(row["arm"])
    return kept


def _labels(
    frame: svg.Frame,
    found: list[tuple[str, float, Estimate]],
    labels: dict[str, str],
    chosen: list[str],
) -> dict[str, str]:
    places = {arm: frame.at(nbytes, e.mean) for arm, nbytes, e in found}
    bars = []
    for _, nbytes, e in found:
        low, high = _ends(e, SHARE)
        bars.append((frame.x(nbytes), frame.y(high), frame.y(low)))
    drawn = place_labels(
        [places[arm] for arm in chosen], [labels[arm] for arm in chosen], bars, frame.box
    )
    return dict(zip(chosen, drawn, strict=True))


def _byte_axes(frame: svg.Frame, sizes: list[float]) -> str:
    ticks = svg.byte_ticks(frame.x.low, frame.x.high)
    return svg.axes(
        frame,
        "Cache per sequence (log scale)",
        "Accuracy (share of queries)",
        x_ticks=ticks if len(ticks) > 1 else sorted(set(sizes)),
        y_ticks=frame.y.ticks(),
        x_format=units.short_size,
        y_format=units.even(frame.y.ticks()),
    )


def told(found: Estimate) -> str:
    """An estimate in words: the mean and each error by its name."""
    places = units.decimals(
        min((e for e in (found.seed_stderr, found.item_stderr) if e), default=None)
    )
    parts = [units.fixed(found.mean, places)]
    if found.seed_stderr is not None:
        parts.append(f"± {units.fixed(found.seed_stderr, places)} over {found.n_seeds} seeds")
    if found.item_stderr is not None:
        parts.append(f"± {units.fixed(found.item_stderr, places)} over items")
    return ", ".join([" ".join(parts[:2]), *parts[2:]])


def _axes(
    frame: svg.Frame,
    x_title: str,
    y_title: str,
    x_format: Callable[[float], str],
    *,
    x_ticks: list[float] | None = None,
) -> str:
    return svg.axes(
        frame,
        x_title,
        y_title,
        x_ticks=frame.x.ticks(6) if x_ticks is None else x_ticks,
        y_ticks=frame.y.ticks(),
        x_format=x_format,
        y_format=units.count if frame.y.is_log else units.even(frame.y.ticks()),
    )


def _of_arm(index: int, body: str) -> str:
    return f'<g data-arm="{index}">{body}</g>'


def swatch(index: int) -> str:
    """The mark of an arm in a legend."""
    body = svg.line([(1.0, 8.0), (27.0, 8.0)], index) + svg.marker(14.0, 8.0, index)
    return f'<svg class="swatch" viewBox="0 0 28 16" aria-hidden="true">{body}</svg>'
