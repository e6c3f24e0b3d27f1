"""What a training has read of each source: rows, and tokens by what they were for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

Unique = Callable[[Mapping[str, int]], Mapping[str, int | None]]
"""Tells the different tokens in the first rows of each source; None: they are generated."""


class Tally:
    """Counts by the names of sources; it travels with checkpoints."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.learnt: Counter[str] = Counter()

    def add(self, batch: Any) -> None:
        """Take in a batch: its rows, and its tokens where it says which source they are of."""
        self.rows.update(batch.source_counts)
        for name, (n_read, n_learnt) in getattr(batch, "source_tokens", {}).items():
            self.read[name] += n_read
            self.learnt[name] += n_learnt

    def told(self, unique: Unique | None) -> dict[str, Any]:
        """Return the entries of a row of the metrics.

        Args:
            unique: of the data; None: it does not tell.

        Returns:
            {"sources": {name: rows}, "source_tokens": {name: {"input" (read), "loss" (learnt),
            "unique" (different ones; None: generated, or nobody tells)}}}.
        """
        seen = {} if unique is None else unique(self.rows)
        tokens = {
            name: {"input": self.read[name], "loss": self.learnt[name], "unique": seen.get(name)}
            for name in sorted(self.read)
        }
        return {"sources": dict(sorted(self.rows.items())), "source_tokens": tokens}

    def state(self) -> dict[str, Any]:
        """Return what `load` takes back, beside the rows: plain values."""
        return {"read": dict(self.read), "learnt": dict(self.learnt)}

    def load(self, rows: Mapping[str, int], state: Mapping[str, Any]) -> None:
        """Put rows and `state` back; an older checkpoint has no state."""
        self.rows.update(rows)
        self.read.update(state.get("read", {}))
        self.learnt.update(state.get("learnt", {}))
