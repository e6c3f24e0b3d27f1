"""What all forms of the experts agree on."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]
"""Elementwise."""


def opened(h: Tensor, function: Activation, gated: bool, weight: Tensor | None = None) -> Tensor:
    """From what comes up to what goes down: act(gate) * up, the gate being the first half, or act.

    Args:
        h: (..., R).
        function: the activation.
        gated: whether R is twice F.
        weight: (..., 1), at least fp32: a factor of each row, given here because what goes down is
            often wider. The product is rounded once.

    Returns:
        (..., F) in the dtype of `h`.
    """
    if not gated:
        y = function(h)
        return y if weight is None else (y * weight).to(h.dtype)
    gate, up = h.chunk(2, dim=-1)
    return (function(gate) * (up if weight is None else up * weight)).to(h.dtype)


def expert(x: Tensor, w_in: Tensor, w_out: Tensor, function: Activation, gated: bool) -> Tensor:
    """x (N, D), w_in (R, D), w_out (D, F) -> (N, D)."""
    return F.linear(opened(F.linear(x, w_in), function, gated), w_out)
