"""SSD of one token per row from what is projected and convolved to what is projected next.

The state is written in place. A norm behind the gate is left to whoever reads the result: it needs
all channels, and is one factor per row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator
from braidlm.ops.ssd.step import step


class Rates(NamedTuple):
    """What a Mamba-2 mixer's heads have of their own, and how they share B and C."""

    dt_bias: Tensor
    """(H,)."""
    A_log: Tensor
    """(H,): A = -exp(A_log)."""
    D: Tensor
    """(H,)."""
    limits: tuple[float, float | None]
    """Least and greatest step size; None: no greatest."""
    n_groups: int
    """G: head h reads group h // (H // G)."""


class Gate(NamedTuple):
    """What stands between the recurrence and the next product."""

    z: Tensor
    """(n, H P): SiLU of it multiplies y; rows may be slices of wider ones."""
    scale: Tensor | None
    """(H P,): the norm's weight; None: 1."""
    norm_first: bool
    """Whether the norm averages y instead of y SiLU(z)."""
    dtype: torch.dtype
    """Of the result."""


def _naive(xbcdt: Tensor, rates: Rates, state: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    _, n_heads, head_dim, d_state = state.shape
    bc = rates.n_groups * d_state
    x, b, c, dt = xbcdt[:, None].split([n_heads * head_dim, bc, bc, n_heads], dim=-1)
    wide = state.dtype
    dt = F.softplus(dt.to(wide) + rates.dt_bias.to(wide)).clamp(*rates.limits)
    x = x.to(wide).unflatten(-1, (n_heads, head_dim))
    b, c = (v.to(wide).unflatten(-1, (rates.n_groups, d_state)) for v in (b, c))
    y, after = step(x, dt, -torch.exp(rates.A_log.to(wide)), b, c, state)
    state.copy_(after)
    y = torch.addcmul(y, x, rates.D.to(wide)[:, None]).flatten(2)[:, 0]
    u = y * F.silu(gate.z.to(wide))
    squares = (y if gate.norm_first else u).square().sum(-1, keepdim=True)
    return (u if gate.scale is None else u * gate.scale.to(wide)).to(gate.dtype), squares


def _triton(xbcdt: Tensor, rates: Rates, state: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    from braidlm.ops.ssd.triton_step import projected_step_triton  # a CPU does without triton

    return projected_step_triton(xbcdt, rates, state, gate)


def _why_not_triton(call: Call) -> str | None:
    if reason := dispatch.why_not_triton(call):
        return reason
    return "a state of more than 4096 columns" if call.shapes["N"] > 4096 else None


PROJECTED = Operator(
    "ssd_projected",
    (
        Implementation("triton", _triton, _why_not_triton),
        Implementation("naive", _naive, dispatch.always),
    ),
)


def projected_step(
    xbcdt: Tensor, rates: Rates, state: Tensor, gate: Gate, *, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """S = exp(A dt) S + dt x B^T, y = S C + D x and u = y g SiLU(z); no gradients.

    Here dt = softplus(dt + dt_bias).

    Args:
        xbcdt: (n, H P + 2 G N + H): x, B, C and dt beside each other, at least fp32; rows may be
            slices of wider ones.
        rates: see there.
        state: S (n, H, P, N) in the dtype of `xbcdt`, written in place.
        gate: z, g, and what is averaged.
        impl: "auto", "triton" or "naive".

    Returns:
        u (n, H P) in `gate.dtype`, and sums of squares (n, any number), which together are those of
        what a norm over all channels averages: y SiLU(z), or y.

    Source: as `ssd`; Dao and Gu 2024 (arXiv 2405.21060) for the gate.
    """
    sizes = dict(zip("nHPN", state.shape, strict=True))
    chosen = PROJECTED.choose(impl, Call.of(xbcdt, sizes, (xbcdt, *rates[:3], state)))
    return chosen.function(xbcdt, rates, state, gate)
