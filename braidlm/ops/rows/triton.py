"""Products of one row on a GPU: one launch from the norm to the residual sum.

With g the scale and s the SiLU of the gate, a norm over all K channels is one factor per row::

    v = x s or x;   y = W (v g) r,   r = 1 / sqrt(mean(v^2) + eps)

so that r is found beside the product and multiplies its result. A row is multiplied and summed in
registers. A program owns some rows of W, hence some channels of the result and of the convolution's
state, which it shifts in place.

A launch may begin before the one in front of it has ended (programmatic dependent launch): it then
loads its first weights, which nobody writes, and waits. Each launch allows the next one only after
its own wait, so that at most two overlap.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from braidlm.ops.rows.parts import ConvStep, Ending, Read
from braidlm.ops.triton_launch import after_launch, early

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

ACTIVATION = {None: 0, "silu": 1, "gelu": 2, "relu2": 3}
WEIGHT_ROWS = 4
"""Rows of W that a program multiplies, by two warps: the fastest of six ways (docs/log.md)."""


def product_triton(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    """See `product`; all on one GPU, contiguous but for the rows of x and of the gate."""
    n_rows, n_inputs = read.x.shape
    n_out = weight.shape[0] // (2 if ending.gated else 1)
    y = torch.empty(n_rows, n_out, dtype=dtype, device=read.x.device)
    conv = ending.conv or ConvStep(0, weight, None, weight)
    gate, residual = (y if t is None else t for t in (read.gate, ending.residual))
    pointers = (read.x, gate, _or(read.scale, y), weight, _or(bias, y), residual, y)
    sizes = (read.x.stride(0), gate.stride(0), residual.stride(0), n_rows, n_out)
    numbers = (conv.first, len(conv.weight), read.eps, read.offset, ending.factor)
    mine = WEIGHT_ROWS // (2 if ending.gated else 1)
    _one_row[(triton.cdiv(n_out, mine), n_rows)](
        *pointers,
        *(conv.weight, _or(conv.bias, y), conv.state),
        *sizes,
        *numbers,
        **options(read, bias, ending),
        K=n_inputs,
        BN=mine,
        BK=256,
        num_warps=2,
        **early(read.x),
    )
    return y


def options(read: Read, bias: Tensor | None, ending: Ending) -> dict[str, Any]:
    """What kernels are compiled for."""
    conv = ending.conv
    return {
        "NORM": read.has_norm,
        "SCALE": read.scale is not None,
        "GATE": 0 if read.gate is None else 2 if read.norm_first else 1,
        "BIAS": bias is not None,
        "ACT": ACTIVATION[ending.activation],
        "GATED": ending.gated,
        "CONV": 0 if conv is None else conv.weight.shape[1],
        "CONV_BIAS": conv is not None and conv.bias is not None,
        "OLD": ending.residual is not None,
    }


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor


@triton_jit
def _opened(
    x_at, z_at, scale_at, offset, ok, ok_k, GATE: tl.constexpr, SCALE: tl.constexpr
):  # fmt: skip
    """v, whose square is averaged, and what is multiplied by W but for the factor of its row."""
    v = tl.load(x_at, mask=ok, other=0.0).to(tl.float32)
    z = v
    if GATE != 0:
        z = tl.load(z_at, mask=ok, other=0.0).to(tl.float32)
        z = z * tl.sigmoid(z)
    if GATE == 1:
        v *= z
    u = v
    if SCALE:
        u = v * (tl.load(scale_at, mask=ok_k, other=0.0).to(tl.float32) + offset)
    if GATE == 2:
        u *= z
    return v, u


@triton_jit
def _activated(y, ACT: tl.constexpr):
    if ACT == 1:
        y = y * tl.sigmoid(y)
    if ACT == 2:
        y = 0.5 * y * (1.0 + tl.math.erf(y * 0.7071067811865476))
    if ACT == 3:
        y = tl.maximum(y, 0.0)
        y = y * y
    return y


@triton_jit
def _convolved(
    y, m, n, ok, cw_ptr, cb_ptr, cs_ptr, first, channels,
    CONV: tl.constexpr, CONV_BIAS: tl.constexpr,
):  # fmt: skip
    """The convolution's channels of y (BM, BN) convolved, its state moved on by one token."""
    c = n - first
    mine = (c >= 0) & (c < channels)
    both = ok & mine[None, :]
    found = y * tl.load(cw_ptr + c * CONV + CONV - 1, mask=mine, other=0.0).to(tl.float32)[None, :]
    place = cs_ptr + m[:, None] * (CONV - 1) * channels + c[None, :]
    for j in tl.static_range(CONV - 1):  # pyright: ignore
        old = tl.load(place + j * channels, mask=both, other=0.0)
        w = tl.load(cw_ptr + c * CONV + j, mask=mine, other=0.0).to(tl.float32)
        found += old * w[None, :]
        if j > 0:
            tl.store(place + (j - 1) * channels, old, mask=both)
    if CONV > 1:
        tl.store(place + (CONV - 2) * channels, y, mask=both)
    if CONV_BIAS:
        found += tl.load(cb_ptr + c, mask=mine, other=0.0).to(tl.float32)[None, :]
    return tl.where(mine[None, :], found * tl.sigmoid(found), y)


@triton_jit
def _finish(
    y, up, r, m, n, ok, bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
    so, N, first, channels, factor,
    NORM: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    CONV: tl.constexpr, CONV_BIAS: tl.constexpr, OLD: tl.constexpr,
):  # fmt: skip
    """From a product (BM, BN) to the result in its place."""
    if NORM:
        y *= r[:, None]
        up *= r[:, None]
    if BIAS:
        y += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
        if GATED:
            up += tl.load(bias_ptr + N + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    y = _activated(y, ACT)
    if GATED:
        y *= up
    if CONV > 0:
        y = _convolved(y, m, n, ok, cw_ptr, cb_ptr, cs_ptr, first, channels, CONV, CONV_BIAS)
    if OLD:
        old = tl.load(old_ptr + m[:, None] * so + n[None, :], mask=ok, other=0.0)
        y = old.to(tl.float32) + factor * y
    tl.store(y_ptr + m[:, None] * N + n[None, :], y, mask=ok)


@triton_jit
def _four(at, start, mine, k, K: tl.constexpr, BK: tl.constexpr):
    """Four tiles of W beside each other, zeros behind the end of its rows."""
    a = tl.load(at + start, mask=mine & (start + k < K), other=0.0)
    b = tl.load(at + start + BK, mask=mine & (start + BK + k < K), other=0.0)
    c = tl.load(at + start + 2 * BK, mask=mine & (start + 2 * BK + k < K), other=0.0)
    d = tl.load(at + start + 3 * BK, mask=mine & (start + 3 * BK + k < K), other=0.0)
    return a, b, c, d


@triton_jit
def _one_row(
    x_ptr, z_ptr, scale_ptr, w_ptr, bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
    sx, sz, so, n_rows, N, first, channels, eps, offset, factor,
    NORM: tl.constexpr, SCALE: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr,
    ACT: tl.constexpr, GATED: tl.constexpr, CONV: tl.constexpr, CONV_BIAS: tl.constexpr,
    OLD: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A row times some rows of W, of which four tiles are on their way while four are used.

    Tiles are (BN, 256): every warp has rows of its own, and adds them up in its registers.
    """
    m = tl.program_id(1) + tl.arange(0, 1)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)[None, :]
    w_at = w_ptr + n.to(tl.int64)[:, None] * K + k
    up_at = w_ptr + (n.to(tl.int64) + N)[:, None] * K + k
    mine = (n < N)[:, None]
    w = _four(w_at, 0, mine, k, K, BK)
    u = w
    if GATED:
        u = _four(up_at, 0, mine, k, K, BK)
    after_launch(EARLY)
    y = tl.zeros((BN, BK), tl.float32)
    up = tl.zeros((BN, BK), tl.float32)
    squares = tl.zeros((1, BK), tl.float32)
    x_at, z_at = x_ptr + tl.program_id(1) * sx + k, z_ptr + tl.program_id(1) * sz + k
    for start in tl.static_range(0, K, 4 * BK):  # pyright: ignore
        next_w, next_u = w, u
        if start + 4 * BK < K:
            next_w = _four(w_at, start + 4 * BK, mine, k, K, BK)
            if GATED:
                next_u = _four(up_at, start + 4 * BK, mine, k, K, BK)
        for part in tl.static_range(4):  # pyright: ignore
            if start + part * BK < K:
                at = start + part * BK
                v, read = _opened(
                    x_at + at, z_at + at, scale_ptr + at + k, offset, at + k < K, at + k < K,
                    GATE, SCALE,
                )  # fmt: skip
                if NORM:
                    squares += v * v
                y += w[part].to(tl.float32) * read
                if GATED:
                    up += u[part].to(tl.float32) * read
        w, u = next_w, next_u
    r = tl.sum(squares, 1)
    if NORM:
        r = tl.rsqrt(r / K + eps)
    y, up = tl.sum(y, 1)[None, :], tl.sum(up, 1)[None, :]
    _finish(
        y, up, r, m, n, (n < N)[None, :], bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
        so, N, first, channels, factor, NORM, BIAS, ACT, GATED, CONV, CONV_BIAS, OLD,
    )  # fmt: skip


@triton_jit
def open_kernel(
    x_ptr, z_ptr, scale_ptr, y_ptr, sx, sz, eps, offset,
    NORM: tl.constexpr, SCALE: tl.constexpr, GATE: tl.constexpr, K: tl.constexpr,
    BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What stands before a product, alone: a row per program."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BK)
    after_launch(EARLY)
    v, y = _opened(
        x_ptr + row * sx + k, z_ptr + row * sz + k, scale_ptr + k, offset, k < K, k < K,
        GATE, SCALE,
    )  # fmt: skip
    if NORM:
        y *= tl.rsqrt(tl.sum(v * v, 0) / K + eps)
    tl.store(y_ptr + row * K + k, y, mask=k < K)


@triton_jit
def end_kernel(
    p_ptr, bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
    so, n_rows, N, first, channels, factor,
    BIAS: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr, CONV: tl.constexpr,
    CONV_BIAS: tl.constexpr, OLD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """What stands behind a product, alone."""
    m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    ok = (m < n_rows)[:, None] & (n < N)[None, :]
    after_launch(EARLY)
    at = m[:, None] * (2 * N if GATED else N) + n[None, :]
    y = tl.load(p_ptr + at, mask=ok, other=0.0).to(tl.float32)
    up = y
    if GATED:
        up = tl.load(p_ptr + at + N, mask=ok, other=0.0).to(tl.float32)
    none = tl.zeros((BM,), tl.float32)
    _finish(
        y, up, none, m, n, ok, bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
        so, N, first, channels, factor, False, BIAS, ACT, GATED, CONV, CONV_BIAS, OLD,
    )  # fmt: skip
