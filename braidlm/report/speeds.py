"""The section on measured speed: throughput by context, and a table beside what was predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from braidlm.report import plots, svg, units
from braidlm.report.html import Cell, Head, Markup, details, drawn, join, table, tag
from braidlm.report.speed import BYTES, OURS, WHERE, Row, of
from braidlm.report.stats import Estimate

MODES = {
    "train": "Training",
    "prefill": "Prefill",
    "decode": "Decoding",
}
HEADS = ("Arm", "Contender", "Context", "Tokens/s", "At the ceiling", "MFU", "Of copy")
HEADS = (*HEADS, "TTFT", "Ours over it", "Peak memory", "KV and state, predicted", "allocated")


def section(data: Row) -> Markup:
    """Figures and tables of every arm that was measured; empty without any."""
    arms = {arm["name"]: arm["label"] for arm in data["arms"]}
    found = {arms[name]: told for name, told in data["speed"].items() if told}
    points = [(label, row) for label, told in found.items() for row in told["points"]]
    if not points:
        return Markup("")
    faults = [f"{label}: {fault}" for label, told in found.items() for fault in told["faults"]]
    peers = {sentence for told in found.values() for sentence in told["peers"]}
    return join(
        [
            *(tag("p", "Not as declared: ", fault, cls="warn") for fault in faults),
            *(tag("p", sentence, cls="about") for sentence in _ceilings(found)),
            *(tag("p", sentence, cls="about") for sentence in sorted(peers)),
            tag("div", *(_figure(where, points) for where in _places(points)), cls="figures"),
            tag("p", _NOTE, cls="about"),
        ]
    )


_NOTE = (
    "Tokens/s are at the median over repeats, ± the standard error of that median by bootstrap "
    "(over seeds: of the mean). At the ceiling: as fast as the predicted FLOPs, or bytes of a "
    "decode step, would go at the matrix product and the copy measured in the same run. MFU: "
    "predicted model FLOPs a second over that matrix product. Predicted and allocated bytes are "
    "those behind the prompts of all rows."
)


def _places(points: list[tuple[str, Row]]) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(row[name] for name in WHERE) for _, row in points))


def _figure(where: tuple[Any, ...], points: list[tuple[str, Row]]) -> Markup:
    """Throughput by context of one mode, device, precision and batch size."""
    here = [(a, row) for a, row in points if tuple(row[name] for name in WHERE) == where]
    mode, device, dtype, batch = where
    series = _series(here)
    title = f"{MODES.get(mode, mode)}, {device} {dtype}, batch {batch:.0f}"
    caption = (
        "Tokens a second by context, log scales; bars are ± 1 standard error. Series that only "
        "say what the ceilings would allow are predictions."
    )
    keys = [tag("li", tag("span", Markup(plots.swatch(i)), name)) for i, name in enumerate(series)]
    heads = [Head(h, "num" if i > 1 else "") for i, h in enumerate(HEADS)]
    numbers = table(heads, [_row(a, row) for a, row in here], name=title)
    shown = drawn(
        _plot(series), title, caption, tag("ul", *keys, cls="legend"), details("Numbers", numbers)
    )
    return shown or numbers


def _series(here: list[tuple[str, Row]]) -> dict[str, list[tuple[float, Estimate]]]:
    """Measured lines, ours first, and behind them one for each arm's ceiling."""
    several = len({arm for arm, _ in here}) > 1
    measured: dict[str, list[tuple[float, Estimate]]] = {}
    ceilings: dict[str, list[tuple[float, Estimate]]] = {}
    for arm, row in here:
        found, most = of(row["tokens_per_sec"]), of(row["ceiling"])
        is_ours = row["subject"] == OURS
        name = arm if is_ours else f"{row['subject']}{f' ({arm})' if several else ''}"
        if found:
            measured.setdefault(name, []).append((row["context"], found))
        if is_ours and most:
            ceilings.setdefault(f"{arm}, at the ceiling", []).append((row["context"], most))
    return measured | ceilings


def _plot(series: dict[str, list[tuple[float, Estimate]]]) -> str | None:
    contexts = sorted({at for rows in series.values() for at, _ in rows})
    if not contexts:
        return None
    return plots.estimates(
        series,
        {name: name for name in series},
        svg.scale(contexts, plots.LEFT, plots.RIGHT, is_log=True, pad=0.08),
        titles=("Context (tokens, log scale)", "Tokens per second (log scale)"),
        name=lambda at: f"{units.plain(at)} tokens",
        x_ticks=contexts,
        group=lambda _, body: body,  # these lines are contenders: the legend of arms is not theirs
        is_log=True,
    )


def _row(arm: str, row: Row) -> list[Cell]:
    words = [
        Cell(arm),
        Cell(row["subject"]),
        Cell(units.plain(row["context"]), row["context"], "num"),
    ]
    if row["why_not"] is not None:
        return [*words, Cell(row["why_not"]), *(Cell(units.MISSING) for _ in HEADS[4:])]
    peak = row["peak_bytes"]
    return [
        *words,
        *(_measured(row[name], units.count) for name in ("tokens_per_sec", "ceiling")),
        *(_measured(row[name], _percent) for name in ("mfu", "copy_share")),
        _measured(row["ttft_sec"], lambda sec: f"{1e3 * sec:.3g} ms"),
        _measured(row["ratio"], lambda ratio: f"{ratio:.2f}"),
        Cell(_range(row["peak_bytes_low"], peak), peak, "num"),
        *(_held(row[name]) for name in ("predicted", "allocated")),
    ]


def _measured(entry: Row | None, shown: Callable[[float], str]) -> Cell:
    """A value, and below it its error."""
    found = of(entry)
    if found is None:
        return Cell(units.MISSING, None, "num")
    error = tag("small", f"± {shown(found.stderr)}")
    return Cell(join([shown(found.mean), " ", error]), found.mean, "num")


def _range(low: float | None, high: float | None) -> str:
    """Both ends where they differ as they are written."""
    ends = [units.size(low), units.size(high)]
    return ends[1] if low is None or ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _held(held: Row) -> Cell:
    n_bytes = _both(held)
    return Cell(units.size(n_bytes), n_bytes, "num")


def _both(held: Row) -> float | None:
    """KV caches and states together."""
    sizes = [held[name] for name in BYTES if held[name] is not None]
    return sum(sizes) if sizes else None


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"


def _ceilings(found: dict[str, Row]) -> list[str]:
    """A sentence for each device and precision: what it reaches, and of what kind it is."""
    said = []
    for told in found.values():
        for row in told["ceilings"]:
            copy, product = of(row["copy_bytes_per_sec"]), of(row["matmul_flops_per_sec"])
            if copy and product:
                said.append(
                    f"{row['device_name']}, torch {row['torch']}, {row['threads']} threads, "
                    f"{row['dtype']}: copy {_giga(copy)} GB/s, matrix product {_giga(product)} "
                    "GFLOP/s."
                )
    return list(dict.fromkeys(said))


def _giga(found: Estimate) -> str:
    places = units.decimals(found.stderr / 1e9)
    return f"{units.fixed(found.mean / 1e9, places)} ± {units.fixed(found.stderr / 1e9, places)}"
