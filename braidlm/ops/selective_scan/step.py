"""The selective scan for one token per row: the recurrence as it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype


def step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """S = exp(dt A) S_before + dt x B^T and y = S C + D x; see `selective_scan`, T is 1.

    Returns:
        y (B, 1, I) in the dtype of `x` and the state (B, I, N), at least fp32.
    """
    wide = state_dtype(x.dtype)
    inputs, dt = x[:, 0].to(wide), dt[:, 0].to(wide)
    state = (dt * inputs)[..., None] * B.to(wide)
    if initial_state is not None:
        decay = torch.exp(dt[..., None] * A.to(wide))
        state = torch.addcmul(state, initial_state.to(wide), decay)
    y = torch.bmm(C.to(wide), state.transpose(1, 2))[:, 0]  # faster than a matrix times a column
    if D is not None:
        y = torch.addcmul(y, inputs, D.to(wide))
    return y[:, None].to(x.dtype), state
