"""The gated delta rule for one token per row: the recurrence, in two products with the state."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """One token of `gated_delta`; T is 1.

    The state S is read once for key and query: with S after its decay and d = beta (v - k S), the
    new state is S + k d and its readout q S + (q . k) d.

    Returns:
        y (B, 1, H, Dv) in the dtype of `v` and the state (B, H, D, Dv), at least fp32, or None.
    """
    acc = state_dtype(v.dtype)
    batch, _, n_heads, v_head_dim = v.shape
    query, key = (_by_head(x, n_heads).to(acc) for x in (q, k))
    value = v[:, 0].to(acc).reshape(-1, 1, v_head_dim)
    strength = beta[:, 0].to(acc).reshape(-1, 1, 1)
    query = query * scale
    state, read, change = None, None, strength * value
    if initial_state is not None:
        decay = torch.exp(g[:, 0].to(acc)).reshape(batch * n_heads, -1, 1)
        state = initial_state.to(acc).flatten(0, 1) * decay
        found, read = torch.bmm(torch.cat((key, query), dim=1), state).split(1, dim=1)
        change = strength * (value - found)
    y = (query * key).sum(-1, keepdim=True) * change
    y = (y if read is None else y + read).view(batch, 1, n_heads, -1).to(v.dtype)
    if not return_state:
        return y, None
    keys = key.transpose(1, 2)
    state = keys * change if state is None else torch.baddbmm(state, keys, change)
    return y, state.unflatten(0, (batch, n_heads))


def _by_head(x: Tensor, n_heads: int) -> Tensor:
    """(B, 1, G, D) -> (B * H, 1, D), each key head repeated for its value heads."""
    batch, _, n_groups, width = x.shape
    if n_groups < n_heads:
        x = x.repeat_interleave(n_heads // n_groups, dim=2)
    return x.reshape(batch * n_heads, 1, width)
