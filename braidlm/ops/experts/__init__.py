"""The experts of a mixture: each token goes through a few of many small MLPs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.activation import ACTIVATIONS
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.experts.batched import experts_batched
from braidlm.ops.experts.gathered import experts_gathered
from braidlm.ops.experts.grouped import experts_grouped_mm, experts_sorted
from braidlm.ops.experts.naive import experts_dense

_ALIGNED_BYTES = 16
_COPIED_BYTES = 2**26
"""Weights whose copy takes a GPU less time than sorting: 45 microseconds at 4 TB/s."""
_MOST_TOKENS = 512
"""As many as a step has rows: beyond it a GPU is faster at asking which experts are idle."""
_MOST_BESIDE_GROUPED = 64
"""Where grouped products run: one kernel that multiplies in vain is faster than sorting."""


def _why_not_grouped_mm(call: Call) -> str | None:
    if call.device != "cuda" or call.dtype != torch.bfloat16:
        return "it is for bf16 on a GPU"
    if not hasattr(F, "grouped_mm"):
        return "torch has no grouped_mm before 2.10"
    if torch.cuda.get_device_capability() < (9, 0):
        return "it needs compute capability 9.0"
    widths = (call.shapes["D"], call.shapes["R"], call.shapes["F"])
    if any(width * call.dtype.itemsize % _ALIGNED_BYTES for width in widths):
        return f"it needs rows of multiples of {_ALIGNED_BYTES} bytes, not widths {widths}"
    return None


def _why_not_sorted(call: Call) -> str | None:
    if torch.compiler.is_compiling():
        return "compiled code cannot ask how many tokens each expert has"
    return None


def _why_not_gathered(call: Call) -> str | None:
    choices, n_experts = call.shapes["N"] * call.shapes["K"], call.shapes["E"]
    if choices > n_experts:
        return f"it would copy {choices} experts' weights, and there are only {n_experts}"
    if call.device == "cpu" and not torch.compiler.is_compiling():
        return "on a CPU it would copy weights that sorting reads where they are"
    size = call.shapes["D"] * (call.shapes["R"] + call.shapes["F"]) * call.dtype.itemsize
    if call.device == "cuda" and choices * size > _COPIED_BYTES:
        return f"it would copy {choices * size} bytes of weights, more than {_COPIED_BYTES}"
    return None


def _why_not_batched(call: Call) -> str | None:
    if call.device != "cuda":
        return "on a CPU it would multiply by experts that nobody chose"
    most = _MOST_TOKENS if _why_not_grouped_mm(call) else _MOST_BESIDE_GROUPED
    if call.shapes["N"] > most:
        return f"it takes every expert over every token, of which it allows {most}"
    return None


EXPERTS = Operator(
    "experts",
    (
        Implementation("gathered", experts_gathered, _why_not_gathered),
        Implementation("batched", experts_batched, _why_not_batched),
        Implementation("grouped_mm", experts_grouped_mm, _why_not_grouped_mm),
        Implementation("sorted", experts_sorted, _why_not_sorted),
        Implementation("dense", experts_dense, dispatch.always),
    ),
)
"""gathered and batched: steps on a GPU, where nothing may ask the host; gathered: compiled ones
too; sorted: a CPU, and many tokens in fp32 on a GPU."""


def experts(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    *,
    activation: str = "silu",
    gated: bool = True,
    impl: str = "auto",
) -> Tensor:
    """y_t = sum_j weight_tj W_out^e f(W_in^e x_t) with e = index_tj.

    f(h) = act(h_1) * h_2 if `gated`, h_1 and h_2 being the halves of h, else act(h). Axes: N tokens
    of width D, k chosen experts, E experts of inner width F; R = 2 F if gated, else F. Products run
    in the dtype of `x` (under autocast, in that of autocast), the sum over j in at least fp32.

    Args:
        x: (N, D), N at least 1.
        index: (N, k) int64, experts of each token, all different.
        weight: (N, k), at least fp32.
        w_in: (E, R, D).
        w_out: (E, D, F).
        activation: "silu", "gelu" or "relu2".
        gated: whether the first half of each W_in^e gates the second.
        impl: "auto", "gathered", "batched", "grouped_mm", "sorted" or "dense". dense computes every
            expert for every token: the truth, and the form in which a token's bits depend on no
            other token.

    Returns:
        (N, D) in the dtype of the products.

    Raises:
        ValueError: a shape that does not fit, or an unknown activation.
        InputError: an unknown `impl`, or one that cannot run this call.

    Source: Shazeer et al. 2017 (arXiv 1701.06538), eq. 1; Gale et al., "MegaBlocks"
        (arXiv 2211.15841), for products without dropped tokens.
    """
    function = _check(x, index, weight, w_in, w_out, activation, gated)
    call = Call(
        device=x.device.type,
        dtype=_product_dtype(x),
        shapes={
            "N": x.shape[0],
            "K": index.shape[1],
            "D": x.shape[1],
            "E": w_in.shape[0],
            "R": w_in.shape[1],
            "F": w_out.shape[2],
        },
        needs_grad=dispatch.needs_grad(x, weight, w_in, w_out),
    )
    chosen = EXPERTS.choose(impl, call)
    with dispatch.own_precision(x):
        x, w_in, w_out = (t.to(call.dtype) for t in (x, w_in, w_out))
        return chosen.function(x, index, weight, w_in, w_out, function, gated)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the products: autocast's where it is on and would cast."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _check(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: str,
    gated: bool,
) -> Callable[[Tensor], Tensor]:
    if activation not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise ValueError(f"experts: activation={activation!r} must be one of {allowed}.")
    n_tokens, width = x.shape
    n_experts, _, inner = w_out.shape
    check_shape("experts", "w_in", w_in, (n_experts, inner * (1 + gated), width))
    check_shape("experts", "w_out", w_out, (n_experts, width, inner))
    check_shape("experts", "index", index, (n_tokens, index.shape[-1]))
    check_shape("experts", "weight", weight, tuple(index.shape))
    return ACTIVATIONS[activation]
