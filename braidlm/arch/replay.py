"""Declaration of replay: rows of an init's own training among those of the recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.config import Config

REPLAY = "replay"
"""What replayed rows are called in metrics: no source may have the name beside them."""


class Replay(Config):
    """A share of the rows is what the init was trained on: less is forgotten.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), who replay 1 % to 50 %, 5 % as a rule.
    """

    fraction: float = Field(gt=0, lt=1)
    """Share of the rows: after any number of rows to within one of them."""
    rows: Literal["seen", "next"] = "seen"
    """seen: those that the init has read, from its first on, and again from there after its last;
    next: those that it would have read next."""
