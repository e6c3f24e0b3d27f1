"""What `braid bench` measured: rows of every contender, and what was predicted of ours."""

from __future__ import annotations

from typing import Any

from braidlm.report.load import Arm
from braidlm.report.run import Run
from braidlm.report.stats import Estimate, as_dict, estimate, number

Row = dict[str, Any]
KIND = "bench"
OURS = "braid"
MODES = ("train", "prefill", "decode")
"""In the order of the page."""
WHERE = ("mode", "device", "dtype", "batch")
"""What the points of one figure have in common."""
MEASURED = ("tokens_per_sec", "unit_sec", "ttft_sec", "mfu", "copy_share")
BYTES = ("kv_bytes", "state_bytes")


def speed(arm: Arm) -> Row:
    """Return the measurements of an arm, empty without any.

    Returns:
        `points`: one row per mode, device, dtype, batch size, context and contender: each of
        `MEASURED` as an estimate over seeds and repeats or null, `ceiling` likewise (tokens/s at
        the measured ceilings), `peak_bytes` and `peak_bytes_low`, `predicted` and `allocated`
        bytes; or `why_not`.
        `ceilings`: the newest of each device and dtype. `peers`: who ran beside ours, and how or
        why not. `faults`: sentences.
    """
    results = [(run, r) for run in arm.runs for r in run.results.values() if r.get("kind") == KIND]
    found: dict[tuple[Any, ...], list[Row]] = {}
    for _, result in results:
        for row in _rows(result, "points"):
            row = row | {"device": result.get("device"), "dtype": result.get("dtype")}
            key = (*(row.get(name) for name in WHERE), number(row.get("context")))
            if key[-1] is not None and number(row.get("batch")) is not None:
                found.setdefault((*key, str(row.get("subject"))), []).append(row)
    if not found:
        return {}
    return {
        "points": [_point(key, found[key]) for key in sorted(found, key=_order)],
        "ceilings": [_ceiling(r, row) for _, r in results for row in _rows(r, "ceilings")],
        "peers": _peers(results),
        "faults": list(dict.fromkeys(str(f) for _, r in results for f in r.get("faults") or [])),
    }


def _rows(result: Row, table: str) -> list[Row]:
    rows = (result.get("tables") or {}).get(table)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Modes and contexts in order, ours first."""
    mode, device, dtype, batch, context, subject = key
    place = MODES.index(mode) if mode in MODES else len(MODES)
    return (
        place,
        str(mode),
        str(device),
        str(dtype),
        number(batch),
        context,
        subject != OURS,
        subject,
    )


def _point(key: tuple[Any, ...], rows: list[Row]) -> Row:
    """One contender at one context, over the seeds that have it."""
    *where, context, subject = key
    there = [row for row in rows if row.get("why_not") is None]
    ceilings = [_table(row, "predicted") for row in there]
    first = there[0] if there else {}
    peaks, lows = (_numbers(there, name) for name in ("peak_bytes", "peak_bytes_low"))
    return {
        **dict(zip(WHERE, where, strict=True)),
        "context": context,
        "subject": subject,
        **{name: _estimate(there, name) for name in MEASURED},
        "ceiling": _estimate(ceilings, "tokens_per_sec"),
        "ratio": _estimate(there, "ours_over_it"),
        "peak_bytes": max(peaks, default=None),
        "peak_bytes_low": min(lows, default=None),
        "predicted": {n: number(_table(first, "predicted").get(n)) for n in (*BYTES, "peak_bytes")},
        "allocated": {n: number(_table(first, "allocated").get(n)) for n in BYTES},
        "why_not": None if there else str(rows[0].get("why_not")),
    }


def _numbers(rows: list[Row], name: str) -> list[float]:
    return [found for row in rows if (found := number(row.get(name))) is not None]


def _table(row: Row, name: str) -> Row:
    found = row.get(name)
    return found if isinstance(found, dict) else {}


def _estimate(rows: list[Row], name: str) -> Row | None:
    """The mean over seeds; the error of the median over repeats takes the place of items'."""
    cells = [(row.get(name), row.get(f"{name}_stderr"), row.get("n")) for row in rows]
    found = estimate(cells)
    return as_dict(found) if found else None


def _ceiling(result: Row, row: Row) -> Row:
    names = ("copy_bytes_per_sec", "matmul_flops_per_sec")
    return {
        **{name: result.get(name) for name in ("device", "dtype")},
        "device_name": _table(result, "about").get("device_name"),
        "torch": _table(result, "about").get("torch"),
        "threads": _table(result, "about").get("threads"),
        **{name: _estimate([row], name) for name in names},
    }


def _peers(results: list[tuple[Run, Row]]) -> list[str]:
    """A sentence for each contender but ours, once."""
    said = []
    for _, result in results:
        for name, about in _table(result, "contenders").items():
            if name != OURS and isinstance(about, dict):
                told = about.get("why_not") or ", ".join(
                    str(about[k])
                    for k in ("library", "class", "kernels", "precision")
                    if k in about
                )
                said.append(f"{name}: {told}")
    return list(dict.fromkeys(said))


def of(entry: Row | None) -> Estimate | None:
    """An estimate out of the data of `tables`."""
    return Estimate(**entry) if entry else None
