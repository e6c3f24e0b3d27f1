"""What is gathered over the updates from one row of the metrics to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Window:
    """The updates since the last row: a row tells of them too, not of its own update alone.

    It travels with checkpoints, so that a row after a resumption tells what it would have told.
    """

    def __init__(self) -> None:
        self.highest: float | None = None
        self.sources: dict[str, list[float]] = {}

    def add(self, loss: float) -> None:
        """Take in an update's loss in nats per target token."""
        self.highest = loss if self.highest is None else max(self.highest, loss)

    def add_rows(self, names: Sequence[str], losses: Tensor, n_targets: Tensor) -> None:
        """Take in the rows of an update by their sources.

        Args:
            names: (B,) the source of each row.
            losses: (B,) summed over the row's targets, in nats.
            n_targets: (B,) how many these are.
        """
        for name, loss, count in zip(names, losses.tolist(), n_targets.tolist(), strict=True):
            sums = self.sources.setdefault(name, [0.0, 0])
            sums[0] += loss
            sums[1] += count

    def told(self) -> dict[str, Any]:
        """Return the entries of a row, and begin anew.

        `loss_max`: the highest loss since the last one; `loss_by_source`, if rows were taken in:
        nats per target token of the rows of each source since.
        """
        told: dict[str, Any] = {"loss_max": self.highest}
        if self.sources:
            means = {k: s / n for k, (s, n) in sorted(self.sources.items()) if n}
            told["loss_by_source"] = means
        self.highest, self.sources = None, {}
        return told

    def state(self) -> dict[str, Any]:
        """Return what `load` takes back: plain values."""
        return {"highest": self.highest, "sources": self.sources}

    def load(self, state: dict[str, Any]) -> None:
        """Put `state` back."""
        self.highest = state["highest"]
        self.sources = state.get("sources", {})
