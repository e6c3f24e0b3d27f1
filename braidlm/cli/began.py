"""What a training began with, and what its loss did then: told when it has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def began(out: Path) -> dict[str, Any]:
    """Return how the init of a run had ended, and how the run's loss began, rose and ended.

    Returns:
        "origin" (`init/origin.json`), and from the rows of the metrics, in nats per target token:
        "first_loss" (of update 1, before it), "highest_loss" with the row "highest_by", and
        "last_loss"; null where no row says so.
    """
    from braidlm.runs import Run

    rows = [row for row in Run(out).metrics() if isinstance(row.get("loss"), float)]
    highest = max(rows, key=_highest, default={})
    return {
        "origin": Run(out).origin,
        "first_loss": rows[0]["loss"] if rows and rows[0].get("step") == 1 else None,
        "highest_loss": _highest(highest) if highest else None,
        "highest_by": highest.get("step"),
        "last_loss": rows[-1]["loss"] if rows else None,
    }


def said(found: dict[str, Any]) -> str:
    """Return the same as two lines."""
    origin = found["origin"]
    ended = origin.get("ended_with") or {}
    how = "how it was trained is not known here"
    if ended:
        loss, lr = (_number(ended.get(key)) for key in ("loss", "lr"))
        how = f"{ended['step']} of {ended['steps']} steps, its last loss {loss}, learning rate {lr}"
    rose = f"at most {_number(found['highest_loss'])} by update {found['highest_by']}"
    return (
        f"began with {origin.get('path')}: {how}\n"
        f"loss {_number(found['first_loss'])} at update 1, {rose}, {_number(found['last_loss'])} "
        "at the last"
    )


def _highest(row: dict[str, Any]) -> float:
    """The highest loss that a row tells of: older runs tell of their own update alone."""
    value = row.get("loss_max")
    return value if isinstance(value, float) else row.get("loss", 0.0)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"
