"""SwiGLU: one half of the channels gates the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.scaled import scaled


def swiglu(p: Tensor, gate_multiplier: float = 1.0, impl: str = "auto") -> Tensor:
    """y = silu(m g) u, where g and u are the first and the second half of the channels of p.

    Args:
        p: (..., 2 W).
        gate_multiplier: m.
        impl: "auto", "triton" or "torch".

    Returns:
        (..., W) in the dtype of `p`.

    Raises:
        ValueError: an odd number of channels.
        InputError: an unknown `impl`, or one that cannot run here.

    Source: Shazeer, "GLU Variants Improve Transformer" (arXiv 2002.05202), eq. 6.
    """
    if p.shape[-1] % 2:
        raise ValueError(f"swiglu: p has {p.shape[-1]} channels; they must be two halves.")
    call = Call.of(p, {"W": p.shape[-1] // 2}, (p,))
    return SWIGLU.choose(impl, call).function(p, gate_multiplier)


def swiglu_linear(
    p: Tensor, weight: Tensor, gate_multiplier: float = 1.0, impl: str = "auto"
) -> Tensor:
    """swiglu(p) @ weight^T, in the dtype of autocast where that is on.

    The Triton form keeps p and the weight alone for its backward pass, not what is multiplied.

    Args:
        p: (..., 2 W).
        weight: (D, W).
        gate_multiplier: see `swiglu`.
        impl: "auto", "triton" or "torch", of the gradient too.

    Returns:
        (..., D).

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`, or one that cannot run here.
    """
    check_shape("swiglu_linear", "weight", weight, (weight.shape[0], p.shape[-1] // 2))
    call = Call.of(p, {"W": p.shape[-1] // 2}, (p, weight))
    if SWIGLU.choose(impl, call).name != "triton":
        return F.linear(swiglu(p, gate_multiplier, "torch"), weight)
    from braidlm.ops.triton_swiglu import swiglu_linear_triton  # a CPU does without triton

    kind = p.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else p.dtype
    with dispatch.own_precision(p):
        return swiglu_linear_triton(p.to(dtype), weight.to(dtype), gate_multiplier)


def _torch(p: Tensor, gate_multiplier: float) -> Tensor:
    gate, up = p.chunk(2, dim=-1)
    return F.silu(scaled(gate, gate_multiplier)) * up


def _triton(p: Tensor, gate_multiplier: float) -> Tensor:
    from braidlm.ops.triton_swiglu import swiglu_triton

    return swiglu_triton(p, gate_multiplier)


def _why_not_triton(call: Call) -> str | None:
    if torch.compiler.is_compiling():
        return "in a graph the compiler finds y again going back, and need not keep it"
    return dispatch.why_not_triton(call)


SWIGLU = Operator(
    "swiglu",
    (
        Implementation("triton", _triton, _why_not_triton),
        Implementation("torch", _torch, dispatch.always),
    ),
)
