"""Products of few rows out of a sublayer, in shares of the inputs that the next norm adds up.

A product with few outputs and many inputs has too few programs, or too narrow ones, each of which
reads all rows again. Here a program has some inputs of some outputs: its tile of W is in its shared
memory before the launch in front ends, and it reads its share of the rows once. The sum over
shares, what it is added to and the norm of the result are one launch, which would be there for the
norm anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from braidlm.ops.rows.blas import opened
from braidlm.ops.rows.few import ROWS
from braidlm.ops.rows.parts import Owed, Read
from braidlm.ops.triton_launch import after_launch, early

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

OUTPUTS, INPUTS = 64, 512
"""Of a program; the fastest of a few, see docs/log.md."""


def product_shares(read: Read, weight: Tensor, factor: float) -> Owed:
    """See `product_owed`; all on one GPU, W contiguous, K a multiple of 8."""
    n_rows, n_inputs = read.x.shape
    n_out = len(weight)
    if read.squares is None or read.scale is not None or read.x.dtype != weight.dtype:
        read = Read(opened(read, weight.dtype))
    if read.x.stride(0) % 8 or read.x.data_ptr() % 16:
        read = read._replace(x=read.x.clone(memory_format=torch.contiguous_format))
    inputs = INPUTS if weight.dtype.itemsize == 2 else 64
    n_shares = -(-n_inputs // inputs)
    parts = torch.empty(n_shares, n_rows, n_out, dtype=torch.float32, device=weight.device)
    _share[(triton.cdiv(n_out, OUTPUTS), n_shares, triton.cdiv(n_rows, ROWS))](
        TensorDescriptor.from_tensor(read.x, [ROWS, inputs]),
        TensorDescriptor.from_tensor(weight, [OUTPUTS, inputs]),
        *(parts, n_rows, n_out),
        BM=ROWS,
        BN=OUTPUTS,
        BK=inputs,
        num_warps=4,
        **early(weight),
    )
    return Owed(parts, factor, read.squares, n_inputs, read.eps)


def settled_triton(read: Read, owed: Owed, dtype: torch.dtype) -> Read:
    """See `settled`; all on one GPU, contiguous but for the rows of x."""
    n_rows, width = read.x.shape
    x = torch.empty(n_rows, width, dtype=read.x.dtype, device=read.x.device)
    y = torch.empty(n_rows, width, dtype=dtype, device=read.x.device)
    _settle[(n_rows,)](
        *(read.x, owed.parts, x if owed.squares is None else owed.squares),
        *(x if read.scale is None else read.scale, x, y),
        *(read.x.stride(0), n_rows, read.eps, read.offset, owed.factor, owed.eps, owed.width),
        SCALE=read.scale is not None,
        SHARES=len(owed.parts),
        SQUARES=0 if owed.squares is None else owed.squares.shape[1],
        K=width,
        BK=triton.next_power_of_2(width),
        num_warps=8,
        **early(x),
    )
    return read._replace(x=x, normed=y)


@triton_jit
def _share(
    x_tiles, w_tiles, parts_ptr, n_rows, N,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    first_m, first_n = tl.program_id(2) * BM, tl.program_id(0) * BN
    share = tl.program_id(1)
    w = w_tiles.load([first_n, share * BK])
    after_launch(EARLY)
    x = x_tiles.load([first_m, share * BK])
    y = tl.dot(x, w.T, input_precision="ieee")
    m = first_m + tl.arange(0, BM)
    n = first_n + tl.arange(0, BN)
    at = (share * n_rows + m[:, None]) * N + n[None, :]
    tl.store(parts_ptr + at, y, mask=(m < n_rows)[:, None] & (n < N)[None, :])


@triton_jit
def _settle(
    old_ptr, parts_ptr, squares_ptr, scale_ptr, x_ptr, y_ptr,
    so, n_rows, eps, offset, factor, read_eps, read_width,
    SCALE: tl.constexpr, SHARES: tl.constexpr, SQUARES: tl.constexpr, K: tl.constexpr,
    BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The stream with what it is owed, and its norm: a row per program."""
    row = tl.program_id(0)
    k = tl.arange(0, BK)
    inside = k < K
    g = tl.full((BK,), 1.0, tl.float32)
    if SCALE:
        g = tl.load(scale_ptr + k, mask=inside, other=0.0).to(tl.float32) + offset
    old = tl.load(old_ptr + row.to(tl.int64) * so + k, mask=inside, other=0.0).to(tl.float32)
    after_launch(EARLY)
    r = 1.0
    if SQUARES > 0:
        one = tl.arange(0, triton.next_power_of_2(SQUARES))
        sums = tl.load(squares_ptr + row * SQUARES + one, mask=one < SQUARES, other=0.0)
        r = tl.rsqrt(tl.sum(sums, 0) / read_width + read_eps)
    total = tl.zeros((BK,), tl.float32)
    for share in tl.static_range(SHARES):  # pyright: ignore
        total += tl.load(parts_ptr + (share * n_rows + row) * K + k, mask=inside, other=0.0)
    x = (old + factor * r * total).to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + row * K + k, x, mask=inside)
    x = x.to(tl.float32)  # the norm is of what the stream holds
    r = tl.rsqrt(tl.sum(x * x, 0) / K + eps)
    tl.store(y_ptr + row * K + k, x * r * g, mask=inside)
