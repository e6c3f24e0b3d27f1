"""The figures of `braid bench` as text."""

from __future__ import annotations

from typing import Any

from braidlm.cli.table import size, table

HEAD = (
    *("mode", "context", "batch", "model", "tokens/s", "95 % interval", "median", "quartiles"),
    *("TTFT", "FLOP/s", "MFU", "bytes/s", "of copy", "peak memory", "n"),
)
LEFT = ("mode", "model")
PREDICTED = ("mode", "context", "batch", "FLOP", "moved", "at the ceiling", "KV", "state", "memory")
MISSING = "-"


def card(data: dict[str, Any]) -> str:
    """Return device and ceilings, a row per point and contender, predictions, and faults."""
    measured = [row for row in data["points"] if row["why_not"] is None]
    parts = [_head(data), *map(_ceiling, data["ceilings"]), ""]
    if measured:
        parts.append(table(HEAD, [_row(row) for row in measured], LEFT))
    ours = [row for row in measured if row["subject"] == "braid"]
    if ours:
        parts += ["predicted (docs/cost.md), of one unit: an update, a prefill, a step"]
        parts.append(table(PREDICTED, [_predicted(row) for row in ours], LEFT))
    parts += [_ratio(row, ours) for row in measured if row["subject"] != "braid"]
    parts += [line(row) for row in data["points"] if row["why_not"] is not None]
    parts += _contenders(data["contenders"])
    parts += [f"FAULT {fault}" for fault in data["faults"]] or [
        "bytes predicted = allocated"
    ] * any(row["allocated"] for row in ours)
    return "\n".join(part for part in parts if part)


def line(row: dict[str, Any]) -> str:
    """Return one row in a line, as it is told while the others run."""
    place = f"{row['mode']} {row['context']:,} x {row['batch']}  {row['subject']}"
    if row["why_not"] is not None:
        return f"{place}: {row['why_not']}"
    low, high = row["tokens_per_sec_low"], row["tokens_per_sec_high"]
    return f"{place}: {_short(row['tokens_per_sec'])} tokens/s [{_short(low)}, {_short(high)}]"


def _head(data: dict[str, Any]) -> str:
    return (
        f"{data['device_name']} ({data['device']}), torch {data['torch']}, {data['threads']} "
        f"threads, seed {data['seed']}, {data['repeats']} rounds after {data['warmups']}; "
        f"memory: {data['memory']}"
    )


def _ceiling(row: dict[str, Any]) -> str:
    return (
        f"ceiling {row['dtype']}: copy {_interval(row, 'copy_bytes_per_sec')} B/s, "
        f"matmul {row['matrix']:,} cubed {_interval(row, 'matmul_flops_per_sec')} FLOP/s"
    )


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = (_short(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{_short(row[name])} [{low}, {high}]"


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    unit = [_time(row[f"unit_sec{part}"]) for part in ("", "_q1", "_q3")]
    ends = [_short(row[f"tokens_per_sec_{end}"]) for end in ("low", "high")]
    peak, low = row["peak_bytes"], row["peak_bytes_low"]
    memory = "not measured" if peak is None else size(peak)
    if peak is not None and size(low) != memory:
        memory = f"{size(low)} to {memory}"
    return (
        *(row["mode"], f"{row['context']:,}", str(row["batch"]), row["subject"]),
        *(_short(row["tokens_per_sec"]), f"{ends[0]} to {ends[1]}"),
        *(unit[0], f"{unit[1]} to {unit[2]}"),
        _time(row["ttft_sec"]) if "ttft_sec" in row else MISSING,
        *(_short(row["flops_per_sec"]), _share(row, "mfu")),
        *(_short(row.get("bytes_per_sec")), _share(row, "copy_share")),
        *(memory, str(row["n"])),
    )


def _predicted(row: dict[str, Any]) -> tuple[str, ...]:
    told = row["predicted"]
    kv, state = (
        size(told[name]) if name in told else MISSING for name in ("kv_bytes", "state_bytes")
    )
    return (
        *(row["mode"], f"{row['context']:,}", str(row["batch"])),
        *(_short(told["model_flops"]), size(round(told.get("moved_bytes", 0)))),
        f"{_short(told['tokens_per_sec'])} tokens/s",
        *(kv, state, f">= {size(told['peak_bytes'])}"),
    )


def _ratio(row: dict[str, Any], ours: list[dict[str, Any]]) -> str:
    """Return how many times as fast ours is at a peer's point."""
    ratio = row.get("ours_over_it")
    if ratio is None:
        return ""
    ends = f"[{row['ours_over_it_low']:.2f}, {row['ours_over_it_high']:.2f}]"
    return (
        f"{row['mode']} {row['context']:,} x {row['batch']}: ours {ratio:.2f} {ends} "
        f"times as fast as {row['subject']}"
    )


def _contenders(modes: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each contender of each mode; the same line once."""
    lines = []
    for mode, contenders in modes.items():
        for name, about in contenders.items():
            told = about.get("why_not") or ", ".join(f"{k} {v}" for k, v in about.items())
            lines.append(f"{mode}, {name}: {told}")
    return lines


def _share(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return MISSING
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return f"{100 * row[name]:.1f} ± {100 * half:.1f} %"


def _time(sec: float) -> str:
    return f"{sec:.3f} s" if sec >= 1 else f"{1e3 * sec:.3g} ms"


def _short(value: float | None) -> str:
    """Return three or four digits and a decimal prefix."""
    if value is None:
        return MISSING
    names, power = ("", " k", " M", " G", " T", " P"), 0
    while abs(value) >= 1e4 and power < len(names) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.4g}{names[power]}"
