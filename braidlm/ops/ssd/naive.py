"""The truth of SSD: the recurrence itself, one token at a time, one document at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.segments import Segments


def ssd_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(A dt_t) S_{t-1} + dt_t x_t B_t^T and y_t = S_t C_t; see `ssd` for the arguments."""
    del chunk_size
    n_heads, head_dim, d_state = x.shape[2], x.shape[3], B.shape[3]
    n_docs = x.shape[0] if segments is None else segments.n_docs
    state = initial_state
    if state is None:
        state = x.new_zeros(n_docs, n_heads, head_dim, d_state, dtype=state_dtype(x.dtype))
    if segments is None:
        y, final = _walk(x, dt, A, B, C, state)
        return y, (final if return_state else None)
    y = torch.zeros_like(x)
    finals = []
    for d, (row, start, length) in enumerate(segments.spans):
        here = (slice(row, row + 1), slice(start, start + length))
        y[here], final = _walk(x[here], dt[here], A, B[here], C[here], state[d : d + 1])
        finals.append(final)
    return y, (torch.cat(finals) if return_state and finals else state if return_state else None)


def _walk(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Whole rows from `state` (B, H, P, N): the outputs (B, T, H, P) and the last state."""
    heads_per_group = x.shape[2] // B.shape[2]
    outputs = []
    for t in range(x.shape[1]):
        b, c = (v[:, t].repeat_interleave(heads_per_group, dim=1).to(state.dtype) for v in (B, C))
        step = dt[:, t].to(state.dtype)
        decay = torch.exp(A.to(state.dtype) * step)
        inflow = (step[..., None] * x[:, t])[..., None] * b[:, :, None, :]
        state = decay[..., None, None] * state + inflow
        outputs.append((state * c[:, :, None, :]).sum(-1))
    return torch.stack(outputs, dim=1).to(x.dtype), state
