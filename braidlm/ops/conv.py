"""Short causal convolution of each channel by itself, inside documents, with its state."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape, state_dtype
from braidlm.segments import Segments, check_segments


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: Literal["silu"] | None = None,
    segments: Segments | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """y_t = f(bias + sum_k weight[:, K-1-k] * x_{t-k}), k = 0..K-1, inside each document.

    Inputs before a document's first token are its initial state, zeros by default.

    Args:
        x: (B, T, D).
        weight: (D, K); the last column multiplies the present token.
        bias: (D,) or None.
        activation: f: "silu", or None for the identity.
        segments: where documents lie; None: each row is one document.
        initial_state: (n_docs, K - 1, D), the last K - 1 inputs of earlier calls, oldest first.
        return_state: whether the new states are computed.
        impl: "auto", "shifts" or "naive".

    Returns:
        y (B, T, D) in the dtype of `x`, and the last K - 1 inputs of each document
        (n_docs, K - 1, D), at least fp32, or None.

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl` or `activation`.
    """
    _check(x, weight, bias, activation, segments, initial_state)
    call = Call(
        device=x.device.type,
        dtype=x.dtype,
        shapes={"B": x.shape[0], "T": x.shape[1], "D": x.shape[2], "K": weight.shape[1]},
        needs_grad=dispatch.needs_grad(x, weight, bias, initial_state),
        is_packed=segments is not None,
        has_state=initial_state is not None,
    )
    chosen = CONV.choose(impl, call)
    with dispatch.own_precision(x):
        weight = weight.to(x.dtype)
        bias = None if bias is None else bias.to(x.dtype)
        y = chosen.function(x, weight, bias, segments, initial_state)
        y = F.silu(y) if activation == "silu" else y
        state = None
        if return_state:
            state = _last_inputs(x, weight.shape[1] - 1, segments, initial_state)
    return y, state


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    segments: Segments | None,
    initial_state: Tensor | None,
) -> None:
    if x.dim() != 3 or weight.dim() != 2 or x.shape[1] < 1 or weight.shape[1] < 1:
        raise ValueError(
            f"causal_conv: x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; "
            "they must be (B, T, D) and (D, K) with T and K at least 1."
        )
    if activation not in (None, "silu"):
        raise dispatch.InputError(
            f"activation={activation!r} is unknown; it must be None or 'silu'."
        )
    channels, width = weight.shape
    check_shape("causal_conv", "x", x, (*x.shape[:2], channels))
    if bias is not None:
        check_shape("causal_conv", "bias", bias, (channels,))
    n_docs = check_segments(segments, x.shape[0], x.shape[1])
    if initial_state is not None:
        check_shape("causal_conv", "initial_state", initial_state, (n_docs, width - 1, channels))


def _naive(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Segments | None,
    initial: Tensor | None,
) -> Tensor:
    """The definition: one document, one token at a time."""
    channels, width = weight.shape
    spans = segments.spans if segments is not None else [(r, 0, x.shape[1]) for r in range(len(x))]
    y = torch.zeros_like(x)
    for d, (row, start, length) in enumerate(spans):
        before = x.new_zeros(width - 1, channels) if initial is None else initial[d].to(x.dtype)
        inputs = torch.cat((before, x[row, start : start + length]))
        for t in range(length):
            value = (inputs[t : t + width] * weight.t()).sum(0)
            y[row, start + t] = value if bias is None else value + bias
    return y


def _shifts(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Segments | None,
    initial: Tensor | None,
) -> Tensor:
    """One shifted product per column of the weight, over the whole batch at once."""
    width = weight.shape[1]
    if segments is None:
        y = _Shifted.apply(x, weight, bias, None)
    else:
        y = _Shifted.apply(x, weight, bias, segments.position)
    if initial is None or width == 1:
        return y  # type: ignore[return-value]
    return _add_initial(y, weight, segments, initial.to(x.dtype))  # type: ignore[arg-type]


def _add_initial(y: Tensor, weight: Tensor, segments: Segments | None, initial: Tensor) -> Tensor:
    """Add what the initial states give to the first K - 1 tokens of each document."""
    width = weight.shape[1]
    given = []
    for p in range(width - 1):
        given.append((initial[:, p:] * weight[:, : width - 1 - p].t()).sum(1))
    reach = torch.stack(given, dim=1)
    if segments is None:
        reach = reach[:, : y.shape[1]]
        return y + F.pad(reach, (0, 0, 0, y.shape[1] - reach.shape[1]))
    p = torch.arange(width - 1, device=y.device)
    column = segments.starts[:, None] + p
    inside = p < segments.lengths[:, None]
    flat = (segments.rows[:, None] * y.shape[1] + column).clamp_max(y.shape[0] * y.shape[1] - 1)
    reach = reach * inside[..., None]
    total = y.flatten(0, 1).index_add(0, flat.flatten(), reach.flatten(0, 1))
    return total.view_as(y)


class _Shifted(torch.autograd.Function):
    """The convolution from zero states; its backward pass shifts the other way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, position: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, position)
        ctx.has_bias = bias is not None
        width = weight.shape[1]
        y = x * weight[:, -1]
        if bias is not None:
            y += bias
        for k in range(1, min(width, x.shape[1])):
            y[:, k:].addcmul_(_reaching(x[:, :-k], position, k), weight[:, width - 1 - k])
        return y

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight, position = ctx.saved_tensors
        width = weight.shape[1]
        d_x = d_y * weight[:, -1]
        d_weight = torch.zeros_like(weight)
        d_weight[:, -1] = (d_y * x).sum((0, 1))
        for k in range(1, min(width, x.shape[1])):
            late = _reaching(d_y[:, k:], position, k)
            d_x[:, :-k].addcmul_(late, weight[:, width - 1 - k])
            d_weight[:, width - 1 - k] = (late * x[:, :-k]).sum((0, 1))
        return d_x, d_weight, (d_y.sum((0, 1)) if ctx.has_bias else None), None


def _reaching(v: Tensor, position: Tensor | None, k: int) -> Tensor:
    """`v` (B, T - k, D) where the token k places on lies in the same document, else 0."""
    return v if position is None else torch.where(position[:, k:, None] >= k, v, 0)


def _last_inputs(x: Tensor, keep: int, segments: Segments | None, initial: Tensor | None) -> Tensor:
    """(n_docs, keep, D): the last inputs of each document, older ones from its initial state."""
    wide = state_dtype(x.dtype)
    if segments is None:
        recent = x[:, max(0, x.shape[1] - keep) :].to(wide)
        missing = keep - recent.shape[1]
        if not missing:
            return recent.clone() if recent.dtype == x.dtype else recent
        if initial is None:
            return F.pad(recent, (0, 0, missing, 0))
        return torch.cat((initial.to(wide)[:, keep - missing :], recent), dim=1)
    back = torch.arange(keep, device=x.device) - keep + 1
    offset = segments.lengths[:, None] - 1 + back
    column = segments.starts[:, None] + offset.clamp_min(0)
    recent = x[segments.rows[:, None], column].to(wide)
    is_here = (offset >= 0)[..., None]
    if initial is None:
        return torch.where(is_here, recent, 0)
    document = torch.arange(segments.n_docs, device=x.device)[:, None]
    older = initial.to(wide)[document, (keep + offset).clamp(0, max(0, keep - 1))]
    return torch.where(is_here, recent, older)


CONV = Operator(
    "conv",
    (
        Implementation("shifts", _shifts, dispatch.always),
        Implementation("naive", _naive, dispatch.always),
    ),
)
