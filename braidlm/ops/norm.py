"""Root-mean-square normalisation, plain and gated. Statistics are at least fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import check_shape, state_dtype


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
        return _normalise(x.to(state_dtype(x.dtype)), weight, eps, offset, n_groups).to(x.dtype)


def gated_rms_norm(
    x: Tensor,
    gate: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    n_groups: int = 1,
    norm_before_gate: bool = False,
) -> Tensor:
    """rms_norm(x * silu(gate)), or rms_norm(x) * silu(gate) if `norm_before_gate`.

    Args:
        x: (..., D).
        gate: (..., D).
        weight: (D,), or None for no scale.
        eps: added to the mean square.
        n_groups: the D channels are normalised in this many equal, contiguous groups.
        norm_before_gate: whether the gate multiplies the normalised value.

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
        wide, opening = x.to(state_dtype(x.dtype)), F.silu(gate.to(state_dtype(x.dtype)))
        if norm_before_gate:
            return (_normalise(wide, weight, eps, 0.0, n_groups) * opening).to(x.dtype)
        return _normalise(wide * opening, weight, eps, 0.0, n_groups).to(x.dtype)


def _normalise(
    x: Tensor, weight: Tensor | None, eps: float, offset: float, n_groups: int
) -> Tensor:
    grouped = x.unflatten(-1, (n_groups, -1))
    y = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)
    y = y.flatten(-2)
    if weight is None:
        return y
    scale = weight.to(x.dtype)
    return y * (scale + offset if offset else scale)


def _check(operator: str, x: Tensor, weight: Tensor | None, n_groups: int) -> None:
    width = x.shape[-1] if x.dim() else 0
    if n_groups < 1 or width < 1 or width % n_groups:
        raise ValueError(f"{operator}: n_groups={n_groups} must divide the {width} channels of x.")
    if weight is not None:
        check_shape(operator, "weight", weight, (width,))
