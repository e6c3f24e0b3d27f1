"""SSD of one token per row on a GPU, from the projection to the output, in one launch.

    dt = softplus(dt + dt_bias);  S = exp(-exp(A_log) dt) S + dt x B^T;  y = S C + D x
    u = y g SiLU(z)

and of what a norm averages, a sum of squares per program. A program owns some channels of one head
of one row and their state, which it writes in place.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from braidlm.ops.ssd.projected import Gate, Rates
from braidlm.ops.triton_launch import after_launch, early

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

ELEMENTS = 2**13
"""Of a state, in one program's registers."""
PROGRAMS = 256
"""Enough for any machine; with fewer a head's channels are divided."""


def projected_step_triton(
    xbcdt: Tensor, rates: Rates, state: Tensor, gate: Gate
) -> tuple[Tensor, Tensor]:
    """See `braidlm.ops.ssd.projected.projected_step`."""
    n_rows, n_heads, head_dim, d_state = state.shape
    padded = 1 << (d_state - 1).bit_length()
    channels = 1 << (head_dim - 1).bit_length()
    channels = min(channels, max(1, ELEMENTS // padded))
    while channels > 4 and n_rows * n_heads * -(-head_dim // channels) < PROGRAMS:
        channels //= 2
    u = torch.empty(n_rows, n_heads * head_dim, dtype=gate.dtype, device=state.device)
    n_parts = -(-head_dim // channels)
    squares = torch.empty(n_rows, n_heads * n_parts, dtype=torch.float32, device=state.device)
    scale = u if gate.scale is None else gate.scale
    low, high = rates.limits
    _step[(n_rows * n_heads, n_parts)](
        *(xbcdt, rates.dt_bias, rates.A_log, rates.D, state, gate.z, scale, u, squares),
        *(
            xbcdt.stride(0),
            gate.z.stride(0),
            n_heads,
            n_heads // rates.n_groups,
            rates.n_groups * d_state,
        ),
        *(float(low), float("inf") if high is None else float(high)),
        P=head_dim,
        N=d_state,
        BP=channels,
        BN=padded,
        SCALE=gate.scale is not None,
        FIRST=gate.norm_first,
        num_warps=4 if channels * padded >= 2048 else 2,
        **early(state),
    )
    return u, squares


@triton_jit
def _step(
    p_ptr, bias_ptr, a_ptr, d_ptr, s_ptr, z_ptr, scale_ptr, u_ptr, squares_ptr,
    sp, sz, H, per_group, bc, low, high,
    P: tl.constexpr, N: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    SCALE: tl.constexpr, FIRST: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row, h = tl.program_id(0) // H, tl.program_id(0) % H
    p = tl.program_id(1) * BP + tl.arange(0, BP)
    n = tl.arange(0, BN)
    ok_p, ok_n = p < P, n < N
    both = ok_p[:, None] & ok_n[None, :]
    place = s_ptr + (tl.program_id(0).to(tl.int64) * P + p[:, None]) * N + n[None, :]
    # A state is read once a step: what comes next in the cache is worth more.
    s = tl.load(place, mask=both, other=0.0, eviction_policy="evict_first")
    rate = tl.exp(tl.load(a_ptr + h).to(tl.float32))
    bias = tl.load(bias_ptr + h).to(tl.float32)
    d = tl.load(d_ptr + h).to(tl.float32)
    g = tl.full((BP,), 1.0, tl.float32)
    if SCALE:
        g = tl.load(scale_ptr + h * P + p, mask=ok_p, other=0.0).to(tl.float32)
    after_launch(EARLY)
    at = p_ptr + row.to(tl.int64) * sp
    x = tl.load(at + h * P + p, mask=ok_p, other=0.0)
    z = tl.load(z_ptr + row.to(tl.int64) * sz + h * P + p, mask=ok_p, other=0.0).to(tl.float32)
    first = at + H * P + h // per_group * N + n
    b = tl.load(first, mask=ok_n, other=0.0)
    c = tl.load(first + bc, mask=ok_n, other=0.0)
    dt = tl.load(at + H * P + 2 * bc + h) + bias
    dt = tl.where(dt > 20.0, dt, tl.log(1.0 + tl.exp(tl.minimum(dt, 20.0))))
    dt = tl.minimum(tl.maximum(dt, low), high)
    s = s * tl.exp(-rate * dt) + (dt * x)[:, None] * b[None, :]
    tl.store(place, s, mask=both, eviction_policy="evict_first")
    y = tl.where(ok_p, tl.sum(s * c[None, :], 1) + d * x, 0.0)
    u = y * z * tl.sigmoid(z)
    v = y if FIRST else u
    squares_at = squares_ptr + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares_at, tl.sum(v * v, 0))
    tl.store(u_ptr + tl.program_id(0) * P + p, u * g, mask=ok_p)
