"""The residual sum and the norm that follows it, as one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape, state_dtype
from braidlm.ops.norm import rms_norm


def add_rms_norm(
    hidden: Tensor,
    added: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    dtype: torch.dtype | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """s = hidden + added;  y = s / sqrt(mean(s^2) + eps) * (offset + weight).

    Args:
        hidden: (..., D), the residual stream.
        added: (..., D), what a sublayer adds to it, in its own dtype.
        weight: (D,).
        eps: added to the mean square.
        offset: added to the weight; 1.0 for weights that are stored around zero.
        dtype: of y; None: that of `hidden`.
        impl: "auto", "triton" or "torch".

    Returns:
        s in the dtype of `hidden`, and y in `dtype`, both (..., D).

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`, or one that cannot run here.

    Source: `norm.rms_norm`.
    """
    check_shape("add_rms_norm", "added", added, tuple(hidden.shape))
    check_shape("add_rms_norm", "weight", weight, (hidden.shape[-1],))
    call = Call.of(hidden, {"W": hidden.shape[-1]}, (hidden, added, weight))
    chosen = ADD_NORM.choose(impl, call)
    with dispatch.own_precision(hidden):
        return chosen.function(hidden, added, weight, eps, offset, dtype or hidden.dtype)


def _triton(
    hidden: Tensor, added: Tensor, weight: Tensor, eps: float, offset: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    from braidlm.ops.triton_add_norm import add_norm_triton  # a CPU does without triton

    scale = weight.to(state_dtype(hidden.dtype))
    return add_norm_triton(hidden, added, scale + offset if offset else scale, eps, dtype)


def pays(hidden: Tensor) -> bool:
    """Whether a sublayer should leave its sum to the next norm: the kernel would make both."""
    call = Call.of(hidden, {"W": hidden.shape[-1]}, (hidden,))
    return _why_not_triton(call) is None


def _why_not_triton(call: Call) -> str | None:
    if torch.compiler.is_compiling():
        return "in a graph the compiler joins the two"
    if reason := dispatch.why_not_triton(call):
        return reason
    return "a program holds at most 16384 channels" if call.shapes["W"] > 2**14 else None


def _torch(
    hidden: Tensor, added: Tensor, weight: Tensor, eps: float, offset: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    total = hidden + added
    return total, rms_norm(total, weight, eps, offset=offset).to(dtype)


ADD_NORM = Operator(
    "add_norm",
    (
        Implementation("triton", _triton, _why_not_triton),
        Implementation("torch", _torch, dispatch.always),
    ),
)
