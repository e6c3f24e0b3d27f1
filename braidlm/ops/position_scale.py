"""A factor on the scores of a query that grows with its position: longer texts, sharper softmax."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype


class LogScale(NamedTuple):
    """log(t + length) / log(length), which is 1 at the first token.

    Source: Chen et al. 2026 (arXiv 2601.22156), attention without position encoding.
    """

    length: float
    """Tokens; the factor has grown by log(2) / log(length) there."""
    first: int
    """Number t of a document's first token."""


class StepScale(NamedTuple):
    """1 + beta log(1 + floor(t / length)), which is 1 before `length`.

    Source: the published Llama 4 reference model.
    """

    length: float
    """Tokens of one step."""
    first: int
    """Number t of a document's first token: 1 in Llama 4, 0 in Ministral 3."""
    beta: float
    """Growth: 0.1 in both."""


def position_scale(
    positions: Tensor, scaling: LogScale | StepScale, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the factor of the query at each position.

    Args:
        positions: (B, T) integers, tokens since the start of the document.
        scaling: how it grows.
        dtype: of what the factor is for.

    Returns:
        (B, T) in `dtype`, computed in at least fp32.
    """
    t = (positions + scaling.first).to(state_dtype(dtype))
    if isinstance(scaling, LogScale):
        return (torch.log(t + scaling.length) / math.log(scaling.length)).to(dtype)
    return (1.0 + scaling.beta * torch.log1p(torch.floor(t / scaling.length))).to(dtype)
