"""Where documents begin and end, as the scan meets them from token to token."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.segments import Segments

NO_DOCUMENT = -1
"""What begins with the run of padding behind a document; it picks the zeros behind the states."""


class Edge(NamedTuple):
    """Rows in which something begins, or ends, at one column."""

    rows: Tensor
    """(n,) int64"""
    docs: Tensor
    """(n,) int64: what begins or ends there; `NO_DOCUMENT` for padding"""


class Edges(NamedTuple):
    """All columns at which a state is set or taken."""

    starts: dict[int, Edge]
    """Column of a first token -> what begins there, padding included."""
    ends: dict[int, Edge]
    """Column of a last token -> which documents end there."""


def find(segments: Segments | None, batch: int, length: int, device: torch.device) -> Edges:
    """Return the edges of a (batch, length) call; without segments each row is one document."""
    if segments is None:
        every = torch.arange(batch, device=device)
        return Edges({0: Edge(every, every)}, {length - 1: Edge(every, every)})
    starts: dict[int, dict[int, int]] = defaultdict(dict)
    ends: dict[int, dict[int, int]] = defaultdict(dict)
    for row, start, n in segments.spans:
        starts[start + n].setdefault(row, NO_DOCUMENT)
    for doc, (row, start, n) in enumerate(segments.spans):
        starts[start][row] = doc
        ends[start + n - 1][row] = doc
    return Edges(_on(starts, device), _on(ends, device))


def _on(columns: dict[int, dict[int, int]], device: torch.device) -> dict[int, Edge]:
    def index(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    return {c: Edge(index(list(at)), index(list(at.values()))) for c, at in columns.items()}
