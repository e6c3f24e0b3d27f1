"""What the kernels of the selective scan do to one token, or to the few that are loaded together.

A program is one warp. It holds the state of K * L channels as (L, BN, K): L channels and BN columns
(N rounded up to a power of two; columns beyond are zero) lie over lanes, each of which has K
channels and some neighbouring columns, so that sums over either cross few lanes.

`begins` says of each token which document begins there: -1 for a run of padding, -2 for none;
`ends` which document ends there, less than 0 for none.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of(place, STRIDE: tl.constexpr, U: tl.constexpr):
    """U rows in fp32, whose first is at `place`; all of them are there."""
    rows = ()
    for k in tl.static_range(U):  # type: ignore[reportGeneralTypeIssues]
        rows += (tl.load(place + k * STRIDE),)
    return rows


@triton.jit
def edges_of(edge_ptr, t, begin, stop, U: tl.constexpr, HAS: tl.constexpr):
    """What begins, or ends, at U tokens from t on; nothing before `begin` and from `stop` on."""
    edges = ()
    for k in tl.static_range(U):  # type: ignore[reportGeneralTypeIssues]
        if HAS:
            there = (t + k >= begin) & (t + k < stop)
            edges += (tl.load(edge_ptr + t + k, mask=there, other=-2),)
    return edges


@triton.jit
def begun(state, opens, first_ptr, cell, ok, SIZE: tl.constexpr):
    """`state`, or what the document that begins here begins with."""
    if opens > -2:
        place = first_ptr + opens.to(tl.int64) * SIZE + cell
        state = tl.load(place, mask=ok & (opens >= 0), other=0.0)
    return state


@triton.jit
def decay_of(dt, a, opens, CUTS: tl.constexpr):
    """exp(dt A); if it cuts, zero where a document begins: nothing goes through, or back."""
    power = dt[:, None, :] * a
    if CUTS:
        power += tl.where(opens > -2, float("-inf"), 0.0)
    return tl.exp2(power)


@triton.jit
def rates_of(A_ptr, n, d, ok, N: tl.constexpr):
    """A as (L, BN, K), so that exp(dt A) is a power of two."""
    place = A_ptr + d[:, None, :] * N + n[None, :, None]
    return tl.load(place, mask=ok, other=0.0).to(tl.float32) * 1.4426950408889634
