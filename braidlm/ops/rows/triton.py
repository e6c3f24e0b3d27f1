"""Products of one row on a GPU: one launch from the norm to the residual sum.

With g the scale a norm over all K channels is one factor per row::

    y = W (x g) r,   r = 1 / sqrt(mean(x^2) + eps)

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
from braidlm.ops.triton_launch import after_launch, early, to_cache

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

ACTIVATION = {None: 0, "silu": 1, "gelu": 2, "relu2": 3}
MANY, FEW = (4, 2), (4, 4)
"""Rows of W that a program multiplies, and warps: of more than 2048 outputs, of fewer."""


def product_triton(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    """See `product`; all on one GPU, contiguous but for the rows of x and of the gate."""
    n_rows, n_inputs = read.x.shape
    n_out = weight.shape[0] // (2 if ending.gated else 1)
    y = torch.empty(n_rows, n_out, dtype=dtype, device=read.x.device)
    conv = ending.conv or ConvStep(0, weight, None, weight)
    residual = _or(ending.residual, y)
    pointers = (read.x, _or(read.squares, y), _or(read.scale, y), weight)
    pointers += (_or(bias, y), residual, y)
    sizes = (read.x.stride(0), residual.stride(0), n_rows, n_out)
    numbers = (conv.first, len(conv.weight), read.eps, read.offset, ending.factor)
    rows, warps = MANY if len(weight) > 2048 else FEW
    mine = rows // (2 if ending.gated else 1)
    _one_row[(triton.cdiv(n_out, mine), n_rows)](
        *pointers,
        *(conv.weight, _or(conv.bias, y), conv.state),
        *sizes,
        *numbers,
        **options(read, bias, ending),
        K=n_inputs,
        BN=mine,
        BK=256 * warps,
        num_warps=warps,
        **early(read.x),
    )
    return y


def options(read: Read, bias: Tensor | None, ending: Ending) -> dict[str, Any]:
    """What kernels are compiled for."""
    conv = ending.conv
    return {
        "NORM": read.has_norm,
        "SCALE": read.scale is not None,
        "SQUARES": 0 if read.squares is None else read.squares.shape[1],
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
def factor_of(squares, squares_ptr, row, ok, eps, K: tl.constexpr, SQUARES: tl.constexpr):
    """r of some rows from what was summed (rows,), or from sums that lie in memory."""
    if SQUARES > 0:
        one = tl.arange(0, triton.next_power_of_2(SQUARES))
        at = squares_ptr + row[:, None] * SQUARES + one[None, :]
        squares = tl.sum(tl.load(at, mask=ok[:, None] & (one < SQUARES)[None, :], other=0.0), 1)
    return tl.rsqrt(squares / K + eps)


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
def held(
    m, n, ok, old_ptr, cw_ptr, cb_ptr, cs_ptr, so, first, channels,
    CONV: tl.constexpr, CONV_BIAS: tl.constexpr, OLD: tl.constexpr,
):  # fmt: skip
    """What the end needs besides the product, on its way while that is made.

    The old stream; what the convolution makes of its last inputs, which move on by one place.
    """
    old = tl.zeros((m.shape[0], n.shape[0]), tl.float32)
    window = old
    if OLD:
        old = tl.load(old_ptr + m[:, None] * so + n[None, :], mask=ok, other=0.0).to(tl.float32)
    if CONV > 0:
        c = n - first
        mine = (c >= 0) & (c < channels)
        both = ok & mine[None, :]
        place = cs_ptr + m[:, None] * (CONV - 1) * channels + c[None, :]
        for j in tl.static_range(CONV - 1):  # pyright: ignore
            one = tl.load(place + j * channels, mask=both, other=0.0)
            w = tl.load(cw_ptr + c * CONV + j, mask=mine, other=0.0).to(tl.float32)
            window += one * w[None, :]
            if j > 0:
                tl.store(place + (j - 1) * channels, one, mask=both)
        if CONV_BIAS:
            window += tl.load(cb_ptr + c, mask=mine, other=0.0).to(tl.float32)[None, :]
    return old, window


@triton_jit
def finish(
    y, up, r, old, window, m, n, ok, bias_ptr, y_ptr, cw_ptr, cs_ptr, N, first, channels, factor,
    NORM: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    CONV: tl.constexpr, OLD: tl.constexpr,
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
        c = n - first
        mine = (c >= 0) & (c < channels)
        if CONV > 1:
            place = cs_ptr + (m[:, None] * (CONV - 1) + CONV - 2) * channels + c[None, :]
            tl.store(place, y, mask=ok & mine[None, :])
        last = tl.load(cw_ptr + c * CONV + CONV - 1, mask=mine, other=0.0).to(tl.float32)
        found = window + y * last[None, :]
        y = tl.where(mine[None, :], found * tl.sigmoid(found), y)
    if OLD:
        y = old + factor * y
    tl.store(y_ptr + m[:, None] * N + n[None, :], y, mask=ok)


@triton_jit
def _tile(at, start: tl.constexpr, mine, k, K: tl.constexpr, BK: tl.constexpr):
    """A tile of W; zeros where its rows have ended."""
    tile = tl.zeros((mine.shape[0], BK), at.dtype.element_ty)
    if start + BK <= K:
        tile = tl.load(at + start, mask=mine, other=0.0)
    elif start < K:
        tile = tl.load(at + start, mask=mine & (start + k < K), other=0.0)
    return tile


@triton_jit
def _four(at, start: tl.constexpr, mine, k, K: tl.constexpr, BK: tl.constexpr):
    """Four tiles of W beside each other."""
    a, b = _tile(at, start, mine, k, K, BK), _tile(at, start + BK, mine, k, K, BK)
    c, d = _tile(at, start + 2 * BK, mine, k, K, BK), _tile(at, start + 3 * BK, mine, k, K, BK)
    return a, b, c, d


@triton_jit
def _one_row(
    x_ptr, squares_ptr, scale_ptr, w_ptr, bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
    sx, so, n_rows, N, first, channels, eps, offset, factor,
    NORM: tl.constexpr, SCALE: tl.constexpr, SQUARES: tl.constexpr, BIAS: tl.constexpr,
    ACT: tl.constexpr, GATED: tl.constexpr, CONV: tl.constexpr, CONV_BIAS: tl.constexpr,
    OLD: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A row times some rows of W, of which four tiles are on their way while four are used.

    A tile is as wide as all threads read at once, 16 bytes each: a row and W then meet in the same
    registers.
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
    if EARLY:
        for start in tl.static_range(4 * BK, K, 4 * BK):  # pyright: ignore
            ahead = tl.minimum(start + tl.arange(0, BK // 16) * 64, K - 1)[None, :]
            row = tl.minimum(n, N - 1).to(tl.int64)[:, None]
            to_cache(w_ptr + row * K + ahead)
            if GATED:
                to_cache(w_ptr + (row + N) * K + ahead)
    after_launch(EARLY)
    ok = (n < N)[None, :]
    old, window = held(
        m, n, ok, old_ptr, cw_ptr, cb_ptr, cs_ptr, so, first, channels, CONV, CONV_BIAS, OLD
    )
    y = tl.zeros((BN, BK), tl.float32)
    up = tl.zeros((BN, BK), tl.float32)
    squares = tl.zeros((1, BK), tl.float32)
    x_at = x_ptr + tl.program_id(1) * sx + k
    for start in tl.static_range(0, K, 4 * BK):  # pyright: ignore
        next_w, next_u = w, u
        if start + 4 * BK < K:
            next_w = _four(w_at, start + 4 * BK, mine, k, K, BK)
            if GATED:
                next_u = _four(up_at, start + 4 * BK, mine, k, K, BK)
        for part in tl.static_range(4):  # pyright: ignore
            if start + part * BK < K:
                at = start + part * BK
                x = tl.load(x_at + at, mask=at + k < K, other=0.0).to(tl.float32)
                if NORM and SQUARES == 0:
                    squares += x * x
                if SCALE:
                    g = tl.load(scale_ptr + at + k, mask=at + k < K, other=0.0)
                    x *= g.to(tl.float32) + offset
                y += w[part].to(tl.float32) * x
                if GATED:
                    up += u[part].to(tl.float32) * x
        w, u = next_w, next_u
    r = tl.sum(squares, 1)
    if NORM:
        r = factor_of(r, squares_ptr, m, m < n_rows, eps, K, SQUARES)
    y, up = tl.sum(y, 1)[None, :], tl.sum(up, 1)[None, :]
    finish(
        y, up, r, old, window, m, n, ok, bias_ptr, y_ptr, cw_ptr, cs_ptr, N, first, channels,
        factor, NORM, BIAS, ACT, GATED, CONV, OLD,
    )  # fmt: skip


@triton_jit
def open_kernel(
    x_ptr, squares_ptr, scale_ptr, y_ptr, sx, eps, offset,
    NORM: tl.constexpr, SCALE: tl.constexpr, SQUARES: tl.constexpr, K: tl.constexpr,
    BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What stands before a product, alone: a row per program."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BK)
    after_launch(EARLY)
    y = tl.load(x_ptr + row * sx + k, mask=k < K, other=0.0).to(tl.float32)
    r = 1.0
    if NORM:
        squares = tl.sum(y * y, 0) + tl.zeros((1,), tl.float32)
        place = row + tl.zeros((1,), tl.int64)
        r = tl.sum(factor_of(squares, squares_ptr, place, place >= 0, eps, K, SQUARES), 0)
    if SCALE:
        y *= tl.load(scale_ptr + k, mask=k < K, other=0.0).to(tl.float32) + offset
    y *= r
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
    old, window = held(
        m, n, ok, old_ptr, cw_ptr, cb_ptr, cs_ptr, so, first, channels, CONV, CONV_BIAS, OLD
    )
    finish(
        y, up, none, old, window, m, n, ok, bias_ptr, y_ptr, cw_ptr, cs_ptr, N, first, channels,
        factor, False, BIAS, ACT, GATED, CONV, OLD,
    )  # fmt: skip
