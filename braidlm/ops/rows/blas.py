"""Products of few rows on a GPU by its library, with a launch before and one behind it.

More than a few rows fill the tiles of matrix units, which cuBLAS cuts and divides better than one
kernel for all shapes would; what it does not know runs on the rows alone, which are small.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from braidlm.ops.rows.parts import PLAIN, ConvStep, Ending, Read
from braidlm.ops.rows.triton import end_kernel, open_kernel, options
from braidlm.ops.triton_launch import early


def product_blas(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    """See `product`; all on one GPU, contiguous but for the rows of x and of the gate."""
    x = opened(read, weight.dtype)
    old = ending.residual
    is_bare = bias is None and ending._replace(residual=None) == PLAIN
    if is_bare and old is not None and old.dtype == dtype == weight.dtype:
        return torch.addmm(old, x, weight.t())
    p = torch.mm(x, weight.t())
    if is_bare and old is None:
        return p.to(dtype)
    return ended(p, bias, ending, dtype)


def opened(read: Read, dtype: torch.dtype) -> Tensor:
    """Return what the product reads, (n, K) in `dtype`."""
    if read.normed is not None:
        return read.normed.to(dtype)
    if not read.has_norm and read.scale is None and read.x.dtype == dtype:
        return read.x
    n_rows, width = read.x.shape
    y = torch.empty(n_rows, width, dtype=dtype, device=read.x.device)
    squares = y if read.squares is None else read.squares
    scale = y if read.scale is None else read.scale
    known = options(read, None, PLAIN)
    open_kernel[(n_rows,)](
        *(read.x, squares, scale, y, read.x.stride(0), read.eps, read.offset),
        **{name: known[name] for name in ("NORM", "SCALE", "SQUARES")},
        K=width,
        BK=triton.next_power_of_2(width),
        num_warps=max(1, min(8, triton.next_power_of_2(width) // 512)),
        **early(y),
    )
    return y


def ended(p: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype) -> Tensor:
    """Return what becomes of a product p (n, N) or (n, 2 N)."""
    n_rows, n_out = p.shape[0], p.shape[1] // (2 if ending.gated else 1)
    y = torch.empty(n_rows, n_out, dtype=dtype, device=p.device)
    conv = ending.conv or ConvStep(0, p, None, p)
    residual = y if ending.residual is None else ending.residual
    known = options(Read(p), bias, ending)
    end_kernel[(triton.cdiv(n_rows, 4), triton.cdiv(n_out, 256))](
        *(p, y if bias is None else bias, residual, y),
        *(conv.weight, y if conv.bias is None else conv.bias, conv.state),
        *(residual.stride(0), n_rows, n_out, conv.first, len(conv.weight), ending.factor),
        **{name: known[name] for name in ("BIAS", "ACT", "GATED", "CONV", "CONV_BIAS", "OLD")},
        BM=4,
        BN=256,
        num_warps=4,
        **early(y),
    )
    return y
