"""The selective scan for one token per row: the recurrence as it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.ops.selective_scan.gate import gated, steps


def step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """S = exp(dt A) S_before + dt x B^T, y = S C + D x, gated; see `selective_scan`, T is 1.

    Returns:
        y (B, 1, I) in the dtype of `x` and the state (B, I, N), at least fp32.
    """
    wide = state_dtype(x.dtype)
    inputs, dt = x[:, 0].to(wide), steps(dt[:, 0].to(wide), dt_bias, dt_softplus)
    state = (dt * inputs)[..., None] * B.to(wide)
    if initial_state is not None:
        decay = torch.exp(dt[..., None] * A.to(wide))
        state = torch.addcmul(state, initial_state.to(wide), decay)
    y = torch.bmm(C.to(wide), state.transpose(1, 2))[:, 0]  # faster than a matrix times a column
    if D is not None:
        y = torch.addcmul(y, inputs, D.to(wide))
    return gated(y, None if z is None else z[:, 0])[:, None].to(x.dtype), state
