"""What is gathered over the updates from one row of the metrics to the next."""

from __future__ import annotations

from typing import Any


class Window:
    """The updates since the last row: a row tells of them too, not of its own update alone.

    It travels with checkpoints, so that a row after a resumption tells what it would have told.
    """

    def __init__(self) -> None:
        self.highest: float | None = None

    def add(self, loss: float) -> None:
        """Take in an update's loss in nats per target token."""
        self.highest = loss if self.highest is None else max(self.highest, loss)

    def told(self) -> dict[str, Any]:
        """Return the entries of a row, and begin anew: `loss_max`, the highest loss since."""
        told = {"loss_max": self.highest}
        self.highest = None
        return told

    def state(self) -> dict[str, Any]:
        """Return what `load` takes back: plain values."""
        return {"highest": self.highest}

    def load(self, state: dict[str, Any]) -> None:
        """Put `state` back."""
        self.highest = state["highest"]
