"""The section on measured speed: throughput by context, and a table beside what was predicted."""

from __future__ import annotations

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
HEADS = ("Arm", "Contender", "Context", "Tokens/s", "±", "At the ceiling", "MFU", "Of copy")
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
    words = [Cell(arm), Cell(row["subject"]), _number(row["context"], units.plain)]
    if row["why_not"] is not None:
        return [*words, Cell(row["why_not"]), *(Cell(units.MISSING) for _ in HEADS[4:])]
    found, predicted, allocated = of(row["tokens_per_sec"]), row["predicted"], row["allocated"]
    return [
        *words,
        _number(found.mean if found else None, units.count),
        _number(found.stderr if found else None, units.count),
        _number(_mean(row["ceiling"]), units.count),
        *(_number(_mean(row[name]), _percent) for name in ("mfu", "copy_share")),
        _number(_mean(row["ttft_sec"]), lambda sec: f"{1e3 * sec:.3g} ms"),
        _number(_mean(row["ratio"]), lambda ratio: f"{ratio:.2f}"),
        _number(row["peak_bytes"], units.size),
        *(_number(_both(held), units.size) for held in (predicted, allocated)),
    ]


def _both(held: Row) -> float | None:
    """KV caches and states together."""
    sizes = [held[name] for name in BYTES if held[name] is not None]
    return sum(sizes) if sizes else None


def _mean(entry: Row | None) -> float | None:
    found = of(entry)
    return found.mean if found else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None, shown: Any) -> Cell:
    return Cell(units.MISSING if value is None else shown(value), value, "num")


def _ceilings(found: dict[str, Row]) -> list[str]:
    """A sentence for each device and precision: what it reaches, and of what kind it is."""
    said = []
    for told in found.values():
        for row in told["ceilings"]:
            copy, product = of(row["copy_bytes_per_sec"]), of(row["matmul_flops_per_sec"])
            if copy and product:
                said.append(
                    f"{row['device_name']}, torch {row['torch']}, {row['threads']} threads, "
                    f"{row['dtype']}: copy {units.count(copy.mean)} ± {units.count(copy.stderr)} "
                    f"bytes/s, matrix product {units.count(product.mean)} ± "
                    f"{units.count(product.stderr)} FLOP/s."
                )
    return list(dict.fromkeys(said))
