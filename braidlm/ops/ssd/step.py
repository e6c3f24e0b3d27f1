"""SSD for one token per row: the recurrence as it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype


def step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S = exp(A dt) S_before + dt x B^T and y = S C; see `ssd` for the arguments, T is 1.

    Returns:
        y (B, 1, H, P) in the dtype of `x` and the state (B, H, P, N), at least fp32.
    """
    acc = state_dtype(x.dtype)
    batch, _, n_heads, head_dim = x.shape
    n_groups, d_state = B.shape[2:]
    dt = dt[:, 0].to(acc)
    b = B.to(acc).view(batch, n_groups, 1, d_state)
    inflow = x[:, 0].to(acc) * dt[..., None]
    state = (inflow.view(batch, n_groups, -1, 1) * b).view(batch, n_heads, head_dim, d_state)
    if initial_state is not None:
        decay = torch.exp(dt * A.to(acc))
        state = torch.addcmul(state, initial_state.to(acc), decay[..., None, None])
    by_group = state.view(batch * n_groups, -1, d_state)
    # A row times a matrix: on a CPU faster than the matrix times a column.
    y = torch.bmm(C.to(acc).reshape(batch * n_groups, 1, d_state), by_group.transpose(1, 2))
    return y.view(batch, 1, n_heads, head_dim).to(x.dtype), state
