"""The truth of the gated delta rule: the recurrence, token by token, document by document."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.segments import Segments


def gated_delta_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Forget, correct what the key finds towards the value, read; see `gated_delta`."""
    del chunk_size
    n_docs = v.shape[0] if segments is None else segments.n_docs
    state = initial_state
    if state is None:
        shape = (n_docs, v.shape[2], k.shape[3], v.shape[3])
        state = v.new_zeros(shape, dtype=state_dtype(v.dtype))
    if segments is None:
        y, final = _walk(q * scale, k, v, g, beta, state)
        return y, (final if return_state else None)
    y = torch.zeros_like(v)
    finals = []
    for d, (row, start, length) in enumerate(segments.spans):
        here = (slice(row, row + 1), slice(start, start + length))
        inputs = (q[here] * scale, k[here], v[here], g[here], beta[here])
        y[here], final = _walk(*inputs, state[d : d + 1])
        finals.append(final)
    return y, (torch.cat(finals) if return_state and finals else state if return_state else None)


def _walk(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Whole rows from `state` (B, H, D, Dv): the outputs (B, T, H, Dv) and the last state."""
    per_group = v.shape[2] // k.shape[2]
    outputs = []
    for t in range(v.shape[1]):
        query, key = (x[:, t].repeat_interleave(per_group, dim=1).to(state.dtype) for x in (q, k))
        decay = torch.exp(g[:, t].to(state.dtype))
        decay = decay[..., None] if decay.dim() == 2 else decay
        state = decay[..., None] * state
        found = (key[..., None] * state).sum(-2)
        change = beta[:, t, :, None].to(state.dtype) * (v[:, t] - found)
        state = state + key[..., None] * change[..., None, :]
        outputs.append((query[..., None] * state).sum(-2))
    return torch.stack(outputs, dim=1).to(v.dtype), state
