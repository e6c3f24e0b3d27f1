"""Products of few rows by matrix units: all rows meet a tile of W in one program.

Every weight is read once, by copies that the memory makes itself (TMA), many tiles ahead: a program
does little with a tile, and its time is the way there. What stands behind the product is done in
it; the norm before it in a launch of its own, whose rows all programs read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from braidlm.ops.rows.blas import opened
from braidlm.ops.rows.parts import ConvStep, Ending, Read
from braidlm.ops.rows.triton import factor_of, finish, held, options
from braidlm.ops.triton_launch import after_launch, early, to_cache

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

LINE = 128
"""Bytes of memory that come together."""
ROWS = 64
"""Of a tile of x: what matrix units take at least. Rows that are not there cost nothing."""


class Tile(NamedTuple):
    """How a product is cut; the fastest of a few, see docs/log.md."""

    outputs: int
    """Channels of the result that a program makes."""
    inputs: int
    """Channels that it reads at once."""
    stages: int
    """Tiles on their way at once."""


WIDE = Tile(32, 128, 4)
"""Of a product into a sublayer."""
GATED = Tile(32, 128, 5)
"""The same where each output is two products."""
HEAD = Tile(64, 64, 6)
"""Of a product with so many outputs that there are enough programs anyway."""
NARROW = Tile(16, 256, 4)
"""Of a product out of a sublayer: with few outputs programs must be narrow to be many."""


def product_few(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    """See `product`; all on one GPU, W contiguous, K a multiple of 8."""
    n_rows, n_inputs = read.x.shape
    n_out = weight.shape[0] // (2 if ending.gated else 1)
    if read.squares is None or read.scale is not None or read.x.dtype != weight.dtype:
        read = Read(opened(read, weight.dtype))
    if read.x.stride(0) % 8 or read.x.data_ptr() % 16:
        read = read._replace(x=read.x.clone(memory_format=torch.contiguous_format))
    tile = tile_of(n_out, ending, weight.dtype)
    y = torch.empty(n_rows, n_out, dtype=dtype, device=read.x.device)
    conv = ending.conv or ConvStep(0, weight, None, weight)
    squares, bias_or, old, conv_bias = (
        y if t is None else t for t in (read.squares, bias, ending.residual, conv.bias)
    )
    known = options(read, bias, ending)
    del known["SCALE"]
    _few[(triton.cdiv(n_out, tile.outputs), triton.cdiv(n_rows, ROWS))](
        TensorDescriptor.from_tensor(read.x, [ROWS, tile.inputs]),
        TensorDescriptor.from_tensor(weight, [tile.outputs, tile.inputs]),
        *(squares, weight, bias_or, old, y, conv.weight, conv_bias, conv.state),
        *(old.stride(0), n_rows, n_out, conv.first, len(conv.weight), read.eps, ending.factor),
        **known,
        K=n_inputs,
        BM=ROWS,
        BN=tile.outputs,
        BK=tile.inputs,
        STAGES=tile.stages,
        LINE=LINE // weight.itemsize,
        num_warps=4,
        **early(read.x),
    )
    return y


def tile_of(n_out: int, ending: Ending, dtype: torch.dtype) -> Tile:
    """Return how a product is cut."""
    plain = NARROW if n_out <= 2048 else WIDE if n_out <= 16384 else HEAD
    tile = GATED if ending.gated else plain
    return tile if dtype.itemsize == 2 else tile._replace(stages=1, inputs=32)


@triton_jit
def _few(
    x_tiles, w_tiles, squares_ptr, w_ptr, bias_ptr, old_ptr, y_ptr, cw_ptr, cb_ptr, cs_ptr,
    so, n_rows, N, first, channels, eps, factor,
    NORM: tl.constexpr, SQUARES: tl.constexpr, BIAS: tl.constexpr,
    ACT: tl.constexpr, GATED: tl.constexpr, CONV: tl.constexpr, CONV_BIAS: tl.constexpr,
    OLD: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr, LINE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    first_m, first_n = tl.program_id(1) * BM, tl.program_id(0) * BN
    m = first_m + tl.arange(0, BM)
    n = first_n + tl.arange(0, BN)
    if EARLY:
        row = tl.minimum(n, N - 1).to(tl.int64)[:, None]
        for start in range(0, K, 16 * LINE):  # pyright: ignore
            ahead = tl.minimum(start + tl.arange(0, 16) * LINE, K - 1)[None, :]
            to_cache(w_ptr + row * K + ahead)
            if GATED:
                to_cache(w_ptr + (row + N) * K + ahead)
    after_launch(EARLY)
    y = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES):
        x = x_tiles.load([first_m, start])
        w = w_tiles.load([first_n, start])
        y = tl.dot(x, w.T, y, input_precision="ieee")
        if GATED:
            u = w_tiles.load([first_n + N, start])
            up = tl.dot(x, u.T, up, input_precision="ieee")
    ok_m = m < n_rows
    ok = ok_m[:, None] & (n < N)[None, :]
    old, window = held(
        m, n, ok, old_ptr, cw_ptr, cb_ptr, cs_ptr, so, first, channels, CONV, CONV_BIAS, OLD
    )
    r = tl.zeros((BM,), tl.float32)
    if NORM:
        r = factor_of(r, squares_ptr, m, ok_m, eps, K, SQUARES)
    finish(
        y, up, r, old, window, m, n, ok, bias_ptr, y_ptr, cw_ptr, cs_ptr, N, first, channels,
        factor, NORM, BIAS, ACT, GATED, CONV, OLD,
    )  # fmt: skip
