"""The truth of the selective scan: the recurrence itself, one token and one document at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.segments import Segments


def scan_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = S_t C_t + D x_t; see `selective_scan`."""
    del chunk_size
    dt = dt.to(state_dtype(x.dtype))
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    n_docs = x.shape[0] if segments is None else segments.n_docs
    state = initial_state
    if state is None:
        state = x.new_zeros(n_docs, *A.shape, dtype=state_dtype(x.dtype))
    if segments is None:
        y, final = _walk(x, dt, A, B, C, D, z, state)
        return y, (final if return_state else None)
    y = torch.zeros_like(x)
    finals = []
    for d, (row, start, length) in enumerate(segments.spans):
        here = (slice(row, row + 1), slice(start, start + length))
        y[here], final = _walk(
            *(x[here], dt[here], A, B[here], C[here], D, None if z is None else z[here]),
            state[d : d + 1],
        )
        finals.append(final)
    return y, (torch.cat(finals) if return_state and finals else state if return_state else None)


def _walk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Whole rows from `state` (B, I, N): the outputs (B, T, I) and the last state."""
    x_wide, dt, A, B, C = (v.to(state.dtype) for v in (x, dt, A, B, C))
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * x_wide[:, t])[..., None] * B[:, t, None, :]
        y = (state * C[:, t, None, :]).sum(-1)
        y = y if D is None else y + D.to(state.dtype) * x_wide[:, t]
        outputs.append(y if z is None else y * F.silu(z[:, t].to(state.dtype)))
    return torch.stack(outputs, dim=1).to(x.dtype), state
