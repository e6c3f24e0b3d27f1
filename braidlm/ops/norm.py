"""Root-mean-square normalisation, plain and gated. Statistics are at least fp32."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape, state_dtype


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, *, offset: float = 0.0, n_groups: int = 1
) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * (offset + weight), the mean over each group of channels.

    Args:
        x: (..., D).
        weight: (D,), or None for no scale.
        eps: added to the mean square.
        offset: added to the weight; 1.0 for weights that are stored around zero.
        n_groups: the D channels are normalised in this many equal, contiguous groups.

    Returns:
        (..., D) in the dtype of `x`.

    Raises:
        ValueError: a weight that is not (D,), or D no multiple of `n_groups`.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467), eq. 4.
    """
    _check("rms_norm", x, weight, n_groups)
    with dispatch.own_precision(x):
        return _normalise(x, weight, eps, offset, n_groups)


def l2_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """y = x / sqrt(sum(x^2) + eps), the sum over the last axis: unit length, and zero stays zero.

    Args:
        x: (..., D).
        eps: added to the sum of squares.

    Returns:
        (..., D) in the dtype of `x`.

    Source: Yang et al. (arXiv 2406.06484), section 3.3, for the keys of a delta rule; the eps is
        that of the authors' code.
    """
    width = x.shape[-1]
    with dispatch.own_precision(x):
        # The root of a sum is that of a mean times the root of the width.
        scale = x.new_full((width,), width**-0.5, dtype=state_dtype(x.dtype))
        return _normalise(x, scale, eps / width, 0.0, 1)


def gated_rms_norm(
    x: Tensor,
    gate: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    n_groups: int = 1,
    norm_before_gate: bool = False,
    activation: Literal["silu", "sigmoid"] = "silu",
) -> Tensor:
    """rms_norm(x * f(gate)), or rms_norm(x) * f(gate) if `norm_before_gate`; f is SiLU or sigmoid.

    Args:
        x: (..., D).
        gate: (..., D).
        weight: (D,), or None for no scale.
        eps: added to the mean square.
        n_groups: the D channels are normalised in this many equal, contiguous groups.
        norm_before_gate: whether the gate multiplies the normalised value.
        activation: f.

    Returns:
        (..., D) in the dtype of `x`.

    Raises:
        ValueError: a gate of another shape, a weight that is not (D,), or a bad `n_groups`.

    Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 7 (the gate before the
        norm; the reverse order is the one of gated linear attention).
    """
    _check("gated_rms_norm", x, weight, n_groups)
    check_shape("gated_rms_norm", "gate", gate, tuple(x.shape))
    with dispatch.own_precision(x):
        is_silu = activation == "silu"
        return _run(x, gate, _scale(x, weight), eps, n_groups, norm_before_gate, is_silu)


def _normalise(
    x: Tensor, weight: Tensor | None, eps: float, offset: float, n_groups: int
) -> Tensor:
    """(..., D) in any dtype -> (..., D) in the dtype of `x`; the scale is offset + weight."""
    return _run(x, None, _scale(x, weight, offset), eps, n_groups)


def _scale(x: Tensor, weight: Tensor | None, offset: float = 0.0) -> Tensor | None:
    if weight is None:
        return None
    scale = weight.to(state_dtype(x.dtype))
    return scale + offset if offset else scale


def _run(
    x: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
    n_groups: int,
    norm_first: bool = False,
    is_silu: bool = True,
) -> Tensor:
    """Choose. On a CPU, where steps are short, there is one way; a graph fuses what has no gate."""
    form = _torch
    if x.is_cuda and not (gate is None and torch.compiler.is_compiling()):
        form = NORM.choose("auto", Call.of(x, {"W": x.shape[-1] // n_groups}, (x, gate, scale)))[1]
    return form(x, gate, scale, eps, n_groups, norm_first, is_silu)


def _triton(
    x: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
    n_groups: int,
    norm_first: bool,
    is_silu: bool,
) -> Tensor:
    from braidlm.ops.triton_norm import norm_triton  # a CPU does without triton

    return norm_triton(x, gate, scale, eps, n_groups, norm_first, is_silu)


def _why_not_triton(call: Call) -> str | None:
    if reason := dispatch.why_not_triton(call):
        return reason
    return "a program holds at most 16384 channels" if call.shapes["W"] > 2**14 else None


def _torch(
    x: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
    n_groups: int,
    norm_first: bool,
    is_silu: bool,
) -> Tensor:
    if gate is None:
        return _plain(x, scale, eps, n_groups)
    wide, opening = x.to(state_dtype(x.dtype)), gate.to(state_dtype(x.dtype))
    opening = F.silu(opening) if is_silu else torch.sigmoid(opening)
    if norm_first:
        return (_plain(wide, scale, eps, n_groups) * opening).to(x.dtype)
    return _plain(wide * opening, scale, eps, n_groups).to(x.dtype)


def _plain(x: Tensor, scale: Tensor | None, eps: float, n_groups: int) -> Tensor:
    """Without a gate; the scale is at least fp32."""
    if torch.compiler.is_compiling():
        return _formula(x, scale, eps, n_groups)
    if n_groups == 1 and not dispatch.needs_grad(x, scale):
        wide = x.to(state_dtype(x.dtype))
        y = wide * _inverse_rms(wide, eps)
        return (y if scale is None else y.mul_(scale)).to(x.dtype)
    scale = None if scale is None else scale.view(n_groups, -1)
    y = _Normalise.apply(x.unflatten(-1, (n_groups, -1)), scale, eps)
    return y.flatten(-2)  # type: ignore[union-attr]


NORM = Operator(
    "norm",
    (
        Implementation("triton", _triton, _why_not_triton),
        Implementation("torch", _torch, dispatch.always),
    ),
)


def _formula(x: Tensor, scale: Tensor | None, eps: float, n_groups: int) -> Tensor:
    """`_plain` as it is written on paper, for the compiler, which finds the gradient itself.

    In graphs of torch 2.11 an `autograd.Function` like `_Normalise` passes no gradient on a GPU.
    """
    wide = x.to(state_dtype(x.dtype)).unflatten(-1, (n_groups, -1))
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).flatten(-2)
    return (y if scale is None else y * scale).to(x.dtype)


def _inverse_rms(wide: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) along the last axis, kept as an axis of one."""
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return length.square_().div_(wide.shape[-1]).add_(eps).rsqrt_()


class _Normalise(torch.autograd.Function):
    """x (..., G, W) to unit mean square along W, times scale (G, W); keeps x and a number per row.

    With n = x / r and r the root mean square: d_x = (d_n - n mean(d_n n)) / r. Nothing mixes two
    dtypes in one operation: on a CPU torch has no vectorised form of that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, eps: float) -> Tensor:
        wide = x.to(state_dtype(x.dtype))
        inverse = _inverse_rms(wide, eps)
        ctx.save_for_backward(x, inverse, scale)
        y = wide * inverse
        return (y if scale is None else y.mul_(scale)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, inverse, scale = ctx.saved_tensors
        wide, d_y = x.to(inverse.dtype), d_y.to(inverse.dtype)
        product = d_y * wide
        d_scale = None
        if scale is not None and ctx.needs_input_grad[1]:
            d_scale = (product * inverse).sum(dim=tuple(range(x.dim() - 2)))
        if not ctx.needs_input_grad[0]:
            return None, d_scale, None
        d_x = d_y * inverse
        if scale is not None:
            product, d_x = product.mul_(scale), d_x.mul_(scale)
        projection = product.mean(-1, keepdim=True).mul_(inverse.pow(3))
        return d_x.addcmul_(wide, projection, value=-1).to(x.dtype), d_scale, None


def _check(operator: str, x: Tensor, weight: Tensor | None, n_groups: int) -> None:
    width = x.shape[-1] if x.dim() else 0
    if n_groups < 1 or width < 1 or width % n_groups:
        raise ValueError(f"{operator}: n_groups={n_groups} must divide the {width} channels of x.")
    if weight is not None:
        check_shape(operator, "weight", weight, (width,))
