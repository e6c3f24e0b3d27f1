"""One expert: what all forms of the operator agree on."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]
"""From what comes up to what goes down: (..., R) -> (..., F)."""


def activation_of(function: Callable[[Tensor], Tensor], gated: bool) -> Activation:
    """Return act(gate) * up, the gate being the first half of what comes up, or plainly act(up)."""
    if not gated:
        return function

    def opened(h: Tensor) -> Tensor:
        gate, up = h.chunk(2, dim=-1)
        return function(gate) * up

    return opened


def expert(x: Tensor, w_in: Tensor, w_out: Tensor, activation: Activation) -> Tensor:
    """x (N, D), w_in (R, D), w_out (D, F) -> (N, D)."""
    return F.linear(activation(F.linear(x, w_in)), w_out)
