"""One row of the result: what was measured of one contender at one context and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from braidlm.bench.ceiling import Ceiling
from braidlm.bench.spread import Spread, quartiles, spread


class Place(NamedTuple):
    """Where a point lies."""

    mode: str
    context: int
    batch: int

    def __str__(self) -> str:
        return f"{self.mode} {self.context:,} tokens x {self.batch}"


def absent(place: Place, name: str, why_not: str) -> dict[str, Any]:
    """Return the row of a contender that could not be measured."""
    return {**place._asdict(), "subject": name, "why_not": why_not}


def measured(
    place: Place,
    name: str,
    sec: Sequence[float],
    tokens: int,
    predicted: dict[str, Any],
    ceiling: Ceiling,
    peaks: Sequence[int],
) -> dict[str, Any]:
    """Return the row of a contender.

    Args:
        place: the point.
        name: of the contender.
        sec: of each repeat of the unit of work: an update, a prefill, a step of decoding.
        tokens: that a unit works on, of all rows.
        predicted: what the declaration says of a unit, see `bench.predicted`.
        ceiling: what the device reached around these repeats.
        peaks: bytes of memory, of several calls.

    Returns:
        `place`, `subject`, `n` repeats, `unit_sec` with quartiles and 95 % interval; the same
        interval and a standard error of `tokens_per_sec`, `flops_per_sec`, `mfu` (over the
        measured matrix product), and where bytes are predicted `bytes_per_sec` and
        `copy_share` (over the measured copy); `peak_bytes` with its range, and `predicted`.
    """
    row: dict[str, Any] = {**place._asdict(), "subject": name, "why_not": None, "n": len(sec)}
    row |= {"tokens": tokens} | seconds("unit", sec)
    row |= _told("tokens_per_sec", spread(lambda t: tokens / t, sec))
    row |= _told("matmul_flops_per_sec", ceiling.matmul)
    row |= _told("copy_bytes_per_sec", ceiling.copy)
    row |= _rates(sec, predicted, ceiling)
    row |= _peak(peaks) | {"predicted": predicted | _at_ceiling(predicted, tokens, ceiling)}
    return row


def seconds(name: str, sec: Sequence[float]) -> dict[str, Any]:
    """Return the median, the quartiles, the interval and the standard error of some seconds."""
    low, _, high = quartiles(sec)
    row = _told(f"{name}_sec", spread(lambda t: t, sec))
    return row | {f"{name}_sec_q1": low, f"{name}_sec_q3": high}


def _rates(sec: Sequence[float], predicted: dict[str, Any], at: Ceiling) -> dict[str, Any]:
    """FLOPs and bytes that were predicted, over the time that they took, and over the ceiling."""
    flops, moved = predicted["model_flops"], predicted.get("moved_bytes")
    row = _told("flops_per_sec", spread(lambda t: flops / t, sec))
    share = spread(lambda t, c: flops / t / at.flops_per_sec(c), sec, at.matmul_sec)
    row |= _told("mfu", share)
    if moved is not None:
        row |= _told("bytes_per_sec", spread(lambda t: moved / t, sec))
        share = spread(lambda t, c: moved / t / at.bytes_per_sec(c), sec, at.copy_sec)
        row |= _told("copy_share", share)
    return row


def _at_ceiling(predicted: dict[str, Any], tokens: int, at: Ceiling) -> dict[str, Any]:
    """Return how fast it would go if products, or bytes, ran at the ceiling and nothing else did.

    The bytes of a unit that does not say how many it moves are not held against it.
    """
    flops, moved = predicted["model_flops"], predicted.get("moved_bytes", 0)

    def fastest(product_sec: float, copy_sec: float) -> float:
        return tokens / max(
            flops / at.flops_per_sec(product_sec), moved / at.bytes_per_sec(copy_sec)
        )

    return _told("tokens_per_sec", spread(fastest, at.matmul_sec, at.copy_sec))


def _peak(peaks: Sequence[int]) -> dict[str, Any]:
    if not peaks:
        return {"peak_bytes": None, "peak_bytes_low": None, "peak_bytes_high": None}
    most = max(peaks)
    return {"peak_bytes": most, "peak_bytes_low": min(peaks), "peak_bytes_high": most}


def _told(name: str, found: Spread) -> dict[str, Any]:
    return {
        name: found.value,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_stderr": found.stderr,
    }
