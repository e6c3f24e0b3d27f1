"""What a training told of its layers and weights, by step: the rows of `train.telemetry_every`."""

from __future__ import annotations

from typing import Any

from braidlm.errors import InputError
from braidlm.report import diagram, svg, units
from braidlm.report.html import Cell, Head, Markup, details, join, table, tag
from braidlm.report.load import Arm
from braidlm.report.stats import mean, number

Data = dict[str, Any]

WIDTH, HEIGHT = 120.0, 26.0

LAYERS = {
    "dt": ("Step size dt", "mean"),
    "decay": ("Decay exp(A dt)", "mean per token"),
    "state_rms": ("Final state", "rms"),
    "share": ("Branch share", "of all branches' rms"),
}
WEIGHTS = {
    "grad_norm": ("Gradient norm", "before clipping"),
    "update_ratio": ("Update ratio", "change / weights"),
}


def telemetry(arm: Arm) -> dict[str, list[Data]]:
    """What the runs of an arm told, averaged over seeds.

    Returns:
        Under `layers` and `weights` one row for each place and word, in order of appearance:
        `place` ("blocks.0", "blocks.1.branches.0", or a group of weights), `word` (a key of
        `LAYERS` or `WEIGHTS`, or a mixer's own) and `points`, pairs of step and mean.
    """
    seen: dict[tuple[str, str, str], dict[float, list[float]]] = {}
    for run in arm.runs:
        for row in run.metrics:
            step = number(row.get("step"))
            if step is None:
                continue
            for key, value in _entries(row.get("telemetry")):
                seen.setdefault(key, {}).setdefault(step, []).append(value)
    found: dict[str, list[Data]] = {"layers": [], "weights": []}
    for (part, place, word), by_step in seen.items():
        points = [[step, mean(by_step[step])] for step in sorted(by_step)]
        found[part].append({"place": place, "word": word, "points": points})
    return found


def _entries(told: Any) -> list[tuple[tuple[str, str, str], float]]:
    """((part, place, word), value) of one row; what is no number is left out."""
    told = told if isinstance(told, dict) else {}
    layers = _numbers(told.get("layers"))
    rms = {place: v for key, v in layers.items() for place, word in [_cut(key)] if word == "rms"}
    entries = []
    for key, value in layers.items():
        place, word = _cut(key)
        total = sum(v for other, v in rms.items() if _cut(other)[0] == _cut(place)[0])
        if word == "rms" and total:
            word, value = "share", value / total
        entries.append((("layers", place, word), value))
    for word in WEIGHTS:
        for group, value in _numbers(told.get(word)).items():
            entries.append((("weights", group, word), value))
    return entries


def _numbers(table_: Any) -> dict[str, float]:
    items = table_.items() if isinstance(table_, dict) else ()
    return {str(k): v for k, value in items if (v := number(value)) is not None}


def _cut(key: str) -> tuple[str, str]:
    place, _, word = key.rpartition(".")
    return place, word


def section(data: Data) -> Markup:
    """One folded table per arm and part, with a small curve in each cell; empty without any."""
    parts = []
    for index, arm in enumerate(data["arms"]):
        told = data["telemetry"][arm["name"]]
        names = _names(data["reproduce"]["configs"][arm["name"]])
        for part, title, words in (
            ("layers", "layers", LAYERS),
            ("weights", "weights", WEIGHTS),
        ):
            if told[part]:
                body = _table(told[part], words, names, index, f"{arm['label']}: {title}")
                parts.append(details(f"{arm['label']}: {title} over steps", body))
    return join([tag("p", _NOTE, cls="about"), *parts]) if parts else Markup("")


_NOTE = (
    "Each cell: the first and the last value, and the curve over training steps between them, "
    "scaled to its own range (mean over seeds). A branch's share is the root mean square of what "
    "the sublayer's output loses without it, over the sum of all branches. See docs/training.md."
)


def _names(config: Data) -> list[list[str]]:
    """Names of the branches of each sublayer; none where the config cannot be read."""
    try:
        return [[diagram.label(kind) for kind in cell.kinds] for cell in diagram.cells(config)]
    except InputError:
        return []


def _label(place: str, names: list[list[str]]) -> str:
    """ "blocks.3.branches.1" -> "3, branch 1: attention"; anything else as it is."""
    match place.split("."):
        case ["blocks", layer, *rest] if layer.isdigit() and int(layer) < len(names):
            here = names[int(layer)]
            if len(rest) == 2 and rest[1].isdigit() and int(rest[1]) < len(here):
                return f"{layer}, branch {rest[1]}: {here[int(rest[1])]}"
            return f"{layer}: {' + '.join(here)}"
    return place.replace("_", " ")


def _table(
    rows: list[Data],
    known: dict[str, tuple[str, str]],
    names: list[list[str]],
    index: int,
    name: str,
) -> Markup:
    words = [w for w in known if any(row["word"] == w for row in rows)]
    words += sorted({row["word"] for row in rows} - set(words))
    cells = {(row["place"], row["word"]): row["points"] for row in rows}
    titles = [known.get(word, (word.replace("_", " "), "")) for word in words]
    heads = [Head("Layer" if known is LAYERS else "Weights")]
    heads += [Head(tag("span", t, Markup("<br>"), tag("small", b))) for t, b in titles]
    places = dict.fromkeys(row["place"] for row in rows)
    body = [
        [
            Cell(_label(place, names)),
            *(_cell(cells.get((place, word)), index) for word in words),
        ]
        for place in places
    ]
    return table(heads, body, name=name)


def _cell(points: list[list[float]] | None, index: int) -> Cell:
    if not points:
        return Cell(units.MISSING)
    ends = f"{units.plain(points[0][1])} → {units.plain(points[-1][1])}"
    if len(points) == 1:
        return Cell(units.plain(points[0][1]))
    return Cell(join([Markup(_curve(points, index)), tag("small", ends)]))


def _curve(points: list[list[float]], index: int) -> str:
    x = svg.scale([step for step, _ in points], 2.0, WIDTH - 2.0, pad=0.0)
    y = svg.scale([value for _, value in points], HEIGHT - 2.0, 2.0)
    drawn = svg.line([(x(step), y(value)) for step, value in points], index)
    low, high = min(v for _, v in points), max(v for _, v in points)
    title = (
        f"from {units.plain(low)} to {units.plain(high)}, steps {points[0][0]:.0f} to "
        f"{points[-1][0]:.0f}"
    )
    return svg.figure(WIDTH, HEIGHT, drawn, title=title, cls="spark")
