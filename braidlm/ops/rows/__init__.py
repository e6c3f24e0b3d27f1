"""Products of few rows: what a step of decoding spends its time on, with what stands around them.

One token per row reads every weight once and computes next to nothing, so that on a GPU each
launch counts. A product here begins with the norm of what it reads and ends with the activation,
the convolution's step or the residual sum of what it makes; README.md has the formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.rows.naive import owed_naive, product_naive, settled_naive
from braidlm.ops.rows.parts import PLAIN, ConvStep, Ending, Owed, Read
from braidlm.segments import Segments

__all__ = [
    "ConvStep",
    "Ending",
    "Owed",
    "Read",
    "is_step",
    "owes",
    "pays",
    "product",
    "product_owed",
    "settled",
]

MOST_ROWS = 512
"""Beyond it a product is bound by its arithmetic, and the usual step is as good."""


def _why_not_triton(call: Call) -> str | None:
    if reason := _why_not_blas(call):
        return reason
    return "cuBLAS is faster where there are several rows" if call.shapes["n"] > 1 else None


def _why_not_blas(call: Call) -> str | None:
    return "it passes no gradients" if call.needs_grad else dispatch.why_not_triton(call)


def _triton(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    from braidlm.ops.rows.triton import product_triton  # a CPU does without triton

    return product_triton(read, weight, bias, ending, dtype)


def _blas(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    from braidlm.ops.rows.blas import product_blas  # a CPU does without triton

    return product_blas(read, weight, bias, ending, dtype)


FEW = 64
"""Rows that one tile of the matrix units holds."""


def _why_not_few(call: Call) -> str | None:
    if reason := _why_not_blas(call):
        return reason
    if call.shapes["n"] > FEW:
        return f"more than {FEW} rows are many"
    if call.shapes["K"] % 8 or call.shapes["at"] % 16:
        return "a row of W does not begin where 16 bytes do"
    if torch.cuda.get_device_capability()[0] < 9:
        return "before Hopper the memory brings no tiles by itself"
    return "matrix units take numbers of two bytes" if call.dtype.itemsize > 2 else None


def _few(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    from braidlm.ops.rows.few import product_few  # a CPU does without triton

    return product_few(read, weight, bias, ending, dtype)


ROWS = Operator(
    "rows",
    (
        Implementation("triton", _triton, _why_not_triton),
        Implementation("few", _few, _why_not_few),
        Implementation("blas", _blas, _why_not_blas),
        Implementation("naive", product_naive, dispatch.always),
    ),
)


def _shares(read: Read, weight: Tensor, factor: float) -> Owed:
    from braidlm.ops.rows.shares import product_shares  # a CPU does without triton

    return product_shares(read, weight, factor)


def _settled(read: Read, owed: Owed, dtype: torch.dtype) -> Read:
    from braidlm.ops.rows.shares import settled_triton  # a CPU does without triton

    return settled_triton(read, owed, dtype)


OWED = Operator(
    "rows_owed",
    (
        Implementation("triton", _shares, _why_not_few),
        Implementation("naive", owed_naive, dispatch.always),
    ),
)
SETTLED = Operator(
    "rows_settled",
    (
        Implementation("triton", _settled, dispatch.why_not_triton),
        Implementation("naive", settled_naive, dispatch.always),
    ),
)


def pays(x: Tensor) -> bool:
    """Whether products of this tensor's rows should be made here: on a GPU, where nobody learns."""
    if not x.is_cuda or torch.compiler.is_compiling() or x.shape[:-1].numel() > MOST_ROWS:
        return False
    return dispatch.is_plain(x) and dispatch.HAS_TRITON and x.dtype != torch.float64


def is_step(hidden: Tensor, segments: Segments | None) -> bool:
    """Whether hidden (B, T, d_model) is one token of each of a few documents."""
    return hidden.shape[1] == 1 and segments is None and hidden.shape[0] <= MOST_ROWS


def product(
    read: Read,
    weight: Tensor,
    bias: Tensor | None = None,
    ending: Ending = PLAIN,
    *,
    dtype: torch.dtype | None = None,
    impl: str = "auto",
) -> Tensor:
    """y = ending(W norm(x) + bias) for n rows; without gradients.

    Args:
        read: x (n, K) and the norm before it.
        weight: W (N, K), or (2 N, K) where the ending is gated.
        bias: (N,) or (2 N,), or None.
        ending: what is done to the product.
        dtype: of the result; None: that of x.
        impl: "auto", "triton", "few", "blas" or "naive".

    Returns:
        y (n, N).

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`, or one that cannot run this call.
    """
    check_shape("rows", "weight", weight, (weight.shape[0], read.x.shape[1]))
    chosen = ROWS.choose(impl, _call(read, weight, bias, ending.residual))
    return chosen.function(read, weight, bias, ending, dtype or read.x.dtype)


def owes(read: Read, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a product is made faster in shares, whose sum the next norm makes."""
    return bias is None and _why_not_few(_call(read, weight)) is None and len(read.x) > 1


def product_owed(read: Read, weight: Tensor, factor: float, *, impl: str = "auto") -> Owed:
    """`product` without an end, left to be added, times `factor`, to what `settled` is given.

    Args:
        read: see `product`.
        weight: W (N, K).
        factor: see `Owed`.
        impl: "auto", "triton" or "naive".
    """
    check_shape("rows_owed", "weight", weight, (weight.shape[0], read.x.shape[1]))
    return OWED.choose(impl, _call(read, weight)).function(read, weight, factor)


def settled(read: Read, owed: Owed, dtype: torch.dtype, *, impl: str = "auto") -> Read:
    """x + factor times the sum of all shares, and its norm, by one operator.

    Args:
        read: x and the norm of the sum.
        owed: what is added.
        dtype: of what is normed.
        impl: "auto", "triton" or "naive".

    Returns:
        `read` with the sum, in the dtype of x, and with what is `normed`.
    """
    check_shape("rows_settled", "parts", owed.parts, (len(owed.parts), *read.x.shape))
    call = Call.of(read.x, {"K": read.x.shape[1]}, (read.x, read.scale, owed.parts))
    return SETTLED.choose(impl, call).function(read, owed, dtype)


def _call(read: Read, weight: Tensor, *others: Tensor | None) -> Call:
    n_rows, width = read.x.shape
    sizes = {"n": n_rows, "K": width, "N": weight.shape[0], "at": weight.data_ptr()}
    return Call.of(weight, sizes, (read.x, read.scale, weight, *others))
