"""The residual sum and the norm that follows it on a GPU: one kernel each way.

With s the scale and m(.) the mean over the W channels of a row::

    v = h + a;   r = 1 / sqrt(m(v^2) + eps);   y = v r s
    d_v = d_sum + r (d_y s - v r^2 m(d_y s v));   d_h = d_a = d_v;   d_s = sum over rows of d_y v r

v is stored in the dtype of h and kept; y has a dtype of its own, that of the product which reads
it, and so has d_a: neither is written in fp32 to be rounded by a pass of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from braidlm.ops.launch import Launcher, described, known_as

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

WIDEST = 2**14
"""Channels of a row that a program holds."""
BLOCK = 2**12
"""Elements of a block of rows, where a row has fewer."""
WARPS = 4
"""Warps of a program that holds one block of rows of at most `BLOCK` elements."""
PROGRAMS = 1024
"""Programs that share the rows going back: few enough to add up their d_s."""


def add_norm_triton(
    hidden: Tensor, added: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """hidden, added (..., W), scale (W,) in fp32 -> the sum in the dtype of hidden, y in dtype."""
    return _AddNorm.apply(hidden, added, scale, eps, dtype)  # type: ignore[return-value]


class _AddNorm(torch.autograd.Function):
    """Keeps the sum, which the next sublayer has anyway."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, added: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        hidden, added = hidden.contiguous(), added.contiguous()
        total = torch.empty_like(hidden)
        y = torch.empty_like(hidden, dtype=dtype)
        n_rows, shape, warps = _plan(hidden)
        grid = (-(-n_rows // shape["ROWS"]), 1, 1)
        args = (hidden, added, scale, total, y, n_rows, eps)
        _FORWARD.run(_key(hidden, added, scale, y), grid, args, shape, warps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, scale)
        ctx.eps, ctx.added_dtype = eps, added.dtype
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor | None, d_y: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        total, scale = ctx.saved_tensors
        if d_y is None:
            d_added = None if d_total is None else d_total.to(ctx.added_dtype)
            return d_total, d_added, None, None, None
        d_hidden = torch.empty_like(total)
        d_added = d_hidden
        if ctx.added_dtype != total.dtype:
            d_added = torch.empty_like(total, dtype=ctx.added_dtype)
        n_rows, shape, warps = _plan(total)
        n_blocks = -(-n_rows // shape["ROWS"])
        each = -(-n_blocks // min(n_blocks, PROGRAMS))
        shares = scale.new_empty(-(-n_blocks // each), shape["W"])
        d_sum = total if d_total is None else d_total.contiguous()
        d_y = d_y.contiguous()
        args = (total, scale, d_y, d_sum, d_hidden, d_added, shares, n_rows, each, ctx.eps)
        options = {"HAS_SUM": d_total is not None, "TWICE": d_added is not d_hidden, **shape}
        key = _key(total, scale, d_y, d_sum, d_added)
        _BACKWARD.run((key, each), (len(shares), 1, 1), args, options, warps)
        return d_hidden, d_added, shares.sum(0), None, None


def _key(*tensors: Tensor) -> int:
    """Stands for everything that compiled kernels depend on but their constants."""
    return known_as((tensors[0].device.index, described(*tensors)))


def _plan(x: Tensor) -> tuple[int, dict[str, int], int]:
    """Rows, what kernels are compiled for, and warps."""
    width = x.shape[-1]
    padded = 1 << (width - 1).bit_length()
    rows = max(1, BLOCK // padded)
    warps = max(WARPS, min(16, padded // 512))
    return x.numel() // width, {"W": width, "BW": padded, "ROWS": rows}, warps


@triton_jit
def _add_norm_forward(
    h_ptr, a_ptr, scale_ptr, sum_ptr, y_ptr, n_rows, eps,
    W: tl.constexpr, BW: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BW)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < n_rows)[:, None] & (column < W)[None, :]
    place = row.to(tl.int64)[:, None] * W + column[None, :]
    v = tl.load(h_ptr + place, mask=ok, other=0.0).to(tl.float32)
    v += tl.load(a_ptr + place, mask=ok, other=0.0).to(tl.float32)
    kept = v.to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + place, kept, mask=ok)
    v = kept.to(tl.float32)
    r = tl.rsqrt(tl.sum(v * v, 1) / W + eps)
    scale = tl.load(scale_ptr + column, mask=column < W, other=0.0)
    tl.store(y_ptr + place, v * r[:, None] * scale[None, :], mask=ok)


@triton_jit
def _add_norm_backward(
    sum_ptr, scale_ptr, dy_ptr, dsum_ptr, dh_ptr, da_ptr, shares_ptr, n_rows, each, eps,
    HAS_SUM: tl.constexpr, TWICE: tl.constexpr,
    W: tl.constexpr, BW: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """d_v, in two dtypes if `TWICE`, and a program's share of d_s -> shares (programs, W)."""
    column = tl.arange(0, BW)
    scale = tl.load(scale_ptr + column, mask=column < W, other=0.0)
    share = tl.zeros((BW,), tl.float32)
    for i in range(each):
        row = (tl.program_id(0) * each + i) * ROWS + tl.arange(0, ROWS)
        ok = (row < n_rows)[:, None] & (column < W)[None, :]
        place = row.to(tl.int64)[:, None] * W + column[None, :]
        v = tl.load(sum_ptr + place, mask=ok, other=0.0).to(tl.float32)
        d = tl.load(dy_ptr + place, mask=ok, other=0.0).to(tl.float32)
        r = tl.rsqrt(tl.sum(v * v, 1) / W + eps)[:, None]
        share += tl.sum(d * v * r, 0)
        d *= scale[None, :]
        mean = tl.sum(d * v, 1)[:, None] / W
        d = r * (d - v * r * r * mean)
        if HAS_SUM:
            d += tl.load(dsum_ptr + place, mask=ok, other=0.0).to(tl.float32)
        tl.store(dh_ptr + place, d, mask=ok)
        if TWICE:
            tl.store(da_ptr + place, d, mask=ok)
    tl.store(shares_ptr + tl.program_id(0) * W + column, share, mask=column < W)


_FORWARD, _BACKWARD = Launcher(_add_norm_forward), Launcher(_add_norm_backward)
