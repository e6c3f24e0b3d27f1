"""Result files of what was measured, one per mode, and the same as one JSON object."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.bench.ceiling import Ceiling
from braidlm.bench.measure import Mode
from braidlm.files import strict_json
from braidlm.runs import Run

if TYPE_CHECKING:
    from braidlm.bench.run import Outcome

KIND = "bench"
METRICS = {
    "tokens_per_sec": "tokens/s",
    "flops_per_sec": "FLOP/s",
    "mfu": "share",
    "bytes_per_sec": "bytes/s",
    "copy_share": "share",
    "unit_sec": "s",
    "ttft_sec": "s",
}
"""What is told as a metric, with its unit; every point of every contender is in the table."""


def as_data(outcome: Outcome) -> dict[str, Any]:
    """Return everything as plain data: the last line of the command."""
    ceilings = [ceiling_row(ceiling) for ceiling in outcome.ceilings.values()]
    return strict_json(
        {
            "benchmark": KIND,
            **outcome.about,
            "ceilings": ceilings,
            "contenders": {mode.name: mode.about for mode in outcome.modes},
            "points": outcome.rows,
            "faults": outcome.faults,
            "is_interrupted": outcome.is_interrupted,
            "files": [str(path) for path in outcome.files],
        }
    )


def ceiling_row(ceiling: Ceiling) -> dict[str, Any]:
    """Return what the device reached: both speeds with their 95 % intervals, and the sizes."""
    row: dict[str, Any] = {"dtype": ceiling.dtype, "n": len(ceiling.copy_sec)}
    row |= {"copied_bytes": ceiling.sizes.copied_bytes, "matrix": ceiling.sizes.matrix}
    for name, found in (
        ("copy_bytes_per_sec", ceiling.copy),
        ("matmul_flops_per_sec", ceiling.matmul),
    ):
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        row[f"{name}_stderr"] = found.stderr
    return row


def write(
    run: Run, outcome: Outcome, checkpoint: str | None, step: int, wall_sec: float
) -> list[Path]:
    """Write a result for each mode that has rows; one of the same device and precision goes."""
    return [
        _write(run, outcome, mode, checkpoint, step, wall_sec)
        for mode in outcome.modes
        if any(row["why_not"] is None for row in mode.rows)
    ]


def _write(
    run: Run, outcome: Outcome, mode: Mode, checkpoint: str | None, step: int, wall_sec: float
) -> Path:
    dtype = mode.probe.dtype
    first = next(row for row in mode.rows if row["why_not"] is None)
    payload = {
        "metric": "tokens_per_sec",
        "metrics": _metrics(first),
        "tables": {"points": mode.rows, "ceilings": [ceiling_row(reduce(add, mode.ceilings))]},
        "contenders": mode.about,
        "faults": mode.faults,
        "is_interrupted": outcome.is_interrupted,
        "about": outcome.about,
        "step": step,
        "checkpoint": checkpoint,
        "device": outcome.about["device"],
        "dtype": dtype,
        "ops": mode.about.get("braid", {}).get("ops", {}),
        "wall_sec": wall_sec,
    }
    name = f"{mode.name}-{outcome.about['device']}-{dtype}"
    with run.measuring(KIND, name):
        return run.write_result(KIND, name, strict_json(payload))


def _metrics(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the figures of the first point, which is ours if ours runs."""
    return {
        name: {
            "value": row[name],
            "stderr": row[f"{name}_stderr"],
            "low": row[f"{name}_low"],
            "high": row[f"{name}_high"],
            "n": row["n"],
            "unit": unit,
        }
        for name, unit in METRICS.items()
        if name in row
    }
