"""What stands around the recurrence, for all tokens of a chunk at once.

The recurrence has the numbers of a token in many lanes: whoever computes there does it several
times. Softplus and gate are therefore computed for a tile of tokens by channels (R, K * L), whose
numbers are each in one lane, and written where the recurrence reads them in fp32, with zeros for
what is not there: a step of zero changes no state.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(base, t, stop, c, STRIDE: tl.constexpr, W: tl.constexpr, R: tl.constexpr):
    """R tokens from t on by the channels c, as they are in memory; zero for what is not there."""
    row = tl.arange(0, R)
    there = (t + row < stop)[:, None] & (c < W)[None, :]
    place = base + t * STRIDE + row[:, None] * STRIDE + c[None, :]
    return tl.load(place, mask=there, other=0.0)


@triton.jit
def put_tile(base, t, stop, c, value, W: tl.constexpr, R: tl.constexpr):
    """Write a tile to (T, W)."""
    row = tl.arange(0, R)
    there = (t + row < stop)[:, None] & (c < W)[None, :]
    place = base + t * W + row[:, None] * W + c[None, :]
    tl.store(place, value.to(base.dtype.element_ty), mask=there)


@triton.jit
def staged(R: tl.constexpr, M: tl.constexpr):
    """Where a tile of R tokens by M channels is staged."""
    return tl.arange(0, R)[:, None] * M + tl.arange(0, M)[None, :]


@triton.jit
def of_channels(ptr, c, HAS: tl.constexpr, W: tl.constexpr):
    """A number for each channel; zero if there is none."""
    found = tl.zeros(c.shape, tl.float32)
    if HAS:
        found += tl.load(ptr + c, mask=c < W, other=0.0).to(tl.float32)
    return found


@triton.jit
def steps_of(raw, t, stop, c, bias, SOFTPLUS: tl.constexpr, W: tl.constexpr, R: tl.constexpr):
    """Steps of a tile: raw + bias, through softplus if asked for; zero for what is not there."""
    dt = raw.to(tl.float32) + bias[None, :]
    if SOFTPLUS:
        # log(1 + e) = 2 artanh(e / (2 + e)): its series is precise for small e too.
        e = tl.exp2(tl.abs(dt) * -1.4426950408889634)
        s = e / (2.0 + e)
        q = s * s
        series = 1.0 / 11 + q * (1.0 / 13 + q * (1.0 / 15))
        series = 1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * series))
        dt = tl.maximum(dt, 0.0) + 2.0 * s * (1.0 + q * (1.0 / 3 + q * series))
    there = (t + tl.arange(0, R) < stop)[:, None] & (c < W)[None, :]
    return tl.where(there, dt, 0.0)


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v))."""
    return 1.0 / (1.0 + tl.exp2(v * -1.4426950408889634))
