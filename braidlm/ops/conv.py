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
        impl: "auto", "step", "triton", "shifted", "depthwise" or "naive".

    Returns:
        y (B, T, D) in the dtype of `x`, and the last K - 1 inputs of each document
        (n_docs, K - 1, D), at least fp32, or None.

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl` or `activation`.
    """
    _check(x, weight, bias, activation, segments, initial_state)
    sizes = dict(zip("BTD", x.shape, strict=True)) | {"K": weight.shape[1]}
    call = Call.of(x, sizes, (x, weight, bias, initial_state), segments, initial_state)
    chosen = CONV.choose(impl, call)
    with dispatch.own_precision(x):
        if chosen.function is not _triton:  # its kernels read weights in their own dtype
            weight = weight.to(x.dtype)
            bias = None if bias is None else bias.to(x.dtype)
        y = chosen.function(x, weight, bias, segments, initial_state, activation == "silu")
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
    is_silu: bool,
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
    return _activated(y, is_silu)


def _activated(y: Tensor, is_silu: bool) -> Tensor:
    return F.silu(y) if is_silu else y


def conv_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`causal_conv` of one token per row: a sum over the columns of the weight, unchecked.

    Args:
        x: (B, 1, D), at least fp32.
        weight: (D, K).
        bias: (D,) or None.
        state: (B, K - 1, D) in the dtype of `x`.

    Returns:
        y (B, 1, D) and the new state, both in the dtype of `x`.
    """
    CONV.note("step")
    window = torch.cat((state, x), dim=1)
    y = (window * weight.to(x.dtype).t()).sum(1, keepdim=True)
    return y if bias is None else y + bias.to(x.dtype), window[:, 1:].clone()


def _step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Segments | None,
    initial: Tensor | None,
    is_silu: bool,
) -> Tensor:
    """One token per row: a sum over the columns of the weight."""
    del segments
    if initial is None:
        y = x * weight[:, -1]
    else:
        window = torch.cat((initial.to(x.dtype), x), dim=1)
        y = (window * weight.t()).sum(1, keepdim=True)
    return _activated(y if bias is None else y + bias, is_silu)


def _triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Segments | None,
    initial: Tensor | None,
    is_silu: bool,
) -> Tensor:
    from braidlm.ops.triton_conv import conv_triton  # a CPU does without triton

    del initial
    return conv_triton(x, weight, bias, segments, is_silu)


def _why_not_triton(call: Call) -> str | None:
    if call.has_state:
        return "it starts from zeros"
    if call.shapes["K"] > 4:
        return "it takes at most 4 columns"
    return dispatch.why_not_triton(call)


def _shifted(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Segments | None,
    initial: Tensor | None,
    is_silu: bool,
) -> Tensor:
    """A sum of shifted rows, each token's position saying how far its document reaches back.

    All shapes follow from those of `x`, and the compiler makes one loop of the sum.
    """
    del initial
    y = x * weight[:, -1]
    for k in range(1, weight.shape[1]):
        earlier = F.pad(x, (0, 0, k, 0))[:, : x.shape[1]]
        if segments is not None:
            earlier = torch.where((segments.position >= k)[..., None], earlier, 0)
        y = y + earlier * weight[:, -1 - k]
    return _activated(y if bias is None else y + bias, is_silu)


def _why_not_shifted(call: Call) -> str | None:
    if call.has_state:
        return "it starts from zeros"
    return None if torch.compiler.is_compiling() else "it is fast only in compiled code"


def _depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    segments: Segments | None,
    initial: Tensor | None,
    is_silu: bool,
) -> Tensor:
    """One depthwise convolution over whole rows; then documents get their first tokens."""
    keep = weight.shape[1] - 1
    if segments is None and initial is not None:
        opened = torch.cat((initial.to(x.dtype), x), dim=1)
        return _activated(_valid(opened, weight, bias), is_silu)
    y = _valid(F.pad(x, (0, 0, keep, 0)), weight, bias)
    if segments is None or keep == 0:
        return _activated(y, is_silu)
    within = torch.arange(min(keep, x.shape[1]), device=x.device)
    first = segments.rows * x.shape[1] + segments.starts
    is_inside = within < segments.lengths[:, None]
    place = first[:, None] + within.minimum(segments.lengths[:, None] - 1)
    if initial is None:
        initial = x.new_zeros(segments.n_docs, keep, x.shape[2])
    opening = torch.cat((initial.to(x.dtype), x.flatten(0, 1)[place]), dim=1)
    # One place is written once: behind a short document's end nothing is replaced.
    replaced = _valid(opening, weight, bias)[is_inside]
    y = y.flatten(0, 1).index_copy(0, place[is_inside], replaced).view_as(y)
    return _activated(y, is_silu)


def _valid(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, T + K - 1, D) -> (B, T, D): outputs whose whole window lies in `x`."""
    return _Valid.apply(x, weight, bias)  # type: ignore[return-value]


def _depthwise_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, T + K - 1, D) -> (B, T, D) as a convolution of channels-last images of height 1.

    Channels stay innermost, so nothing is transposed; torch's one-dimensional form would.
    """
    image = x.transpose(1, 2)[:, :, None]
    return F.conv2d(image, weight[:, None, None], bias, groups=len(weight))[:, :, 0].transpose(1, 2)


class _Valid(torch.autograd.Function):
    """Torch's own backward pass of a depthwise convolution is three times slower on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _depthwise_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        width = weight.shape[1]
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            padded = F.pad(d_y, (0, 0, width - 1, width - 1))
            d_x = _depthwise_product(padded, weight.flip(1), None)
        if ctx.needs_input_grad[1]:
            length = d_y.shape[1]
            columns = [(d_y * x[:, k : k + length]).sum((0, 1)) for k in range(width)]
            d_weight = torch.stack(columns, dim=1)
        return d_x, d_weight, (d_y.sum((0, 1)) if ctx.has_bias else None)


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
        Implementation("step", _step, dispatch.takes_one_token),
        Implementation("triton", _triton, _why_not_triton),
        Implementation("shifted", _shifted, _why_not_shifted),
        Implementation("depthwise", _depthwise, dispatch.always),
        Implementation("naive", _naive, dispatch.always),
    ),
)
