"""SSD of one token per row from what is projected and convolved, its state written in place."""

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


def _naive(xbcdt: Tensor, rates: Rates, state: Tensor) -> Tensor:
    _, n_heads, head_dim, d_state = state.shape
    bc = rates.n_groups * d_state
    x, b, c, dt = xbcdt[:, None].split([n_heads * head_dim, bc, bc, n_heads], dim=-1)
    wide = state.dtype
    dt = F.softplus(dt.to(wide) + rates.dt_bias.to(wide)).clamp(*rates.limits)
    x = x.to(wide).unflatten(-1, (n_heads, head_dim))
    b, c = (v.to(wide).unflatten(-1, (rates.n_groups, d_state)) for v in (b, c))
    y, after = step(x, dt, -torch.exp(rates.A_log.to(wide)), b, c, state)
    state.copy_(after)
    return torch.addcmul(y, x, rates.D.to(wide)[:, None]).flatten(2)[:, 0]


def _triton(xbcdt: Tensor, rates: Rates, state: Tensor) -> Tensor:
    from braidlm.ops.ssd.triton_step import projected_step_triton  # a CPU does without triton

    return projected_step_triton(xbcdt, rates, state)


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


def projected_step(xbcdt: Tensor, rates: Rates, state: Tensor, *, impl: str = "auto") -> Tensor:
    """S = exp(A dt) S + dt x B^T and y = S C + D x, dt = softplus(dt + dt_bias); no gradients.

    Args:
        xbcdt: (n, H P + 2 G N + H): x, B, C and dt beside each other, at least fp32; rows may be
            slices of wider ones.
        rates: see there.
        state: S (n, H, P, N) in the dtype of `xbcdt`, written in place.
        impl: "auto", "triton" or "naive".

    Returns:
        y (n, H P) in the dtype of the state.

    Source: as `ssd`.
    """
    sizes = dict(zip("nHPN", state.shape, strict=True))
    chosen = PROJECTED.choose(impl, Call.of(xbcdt, sizes, (xbcdt, *rates[:3], state)))
    return chosen.function(xbcdt, rates, state)
