"""The short causal convolution on a GPU, its SiLU inside.

    h_t = bias + sum_k w_k x_{t-k},  w_k = weight[:, K-1-k],  k up to t's place in its document
    y_t = h_t sigmoid(h_t), or h_t

    g_t = dy_t dy_t/dh_t;  dx_t = sum_k w_k g_{t+k};  dw_k = sum_t g_t x_{t-k};  dbias = sum_t g_t

Nothing is kept but the inputs. A program walks from token to token with the last three of some
channels in registers, so that everything is read once; going back it holds the three dx that are
not complete yet, too, and adds up its share of the gradients of weight and bias.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from braidlm.ops.launch import Launcher, described, known_as
from braidlm.segments import Segments

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

WALK, CHANNELS = 64, 128
"""Tokens and channels of a program."""
TOGETHER: Any = tl.constexpr(4)
"""Tokens that are loaded before the first of them is needed."""


def conv_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, segments: Segments | None, is_silu: bool
) -> Tensor:
    """x (B, T, D), weight (D, K), bias (D,) -> y (B, T, D), all in the dtype of x."""
    position = None if segments is None else segments.position
    return torch.ops.braidlm.conv(x, weight, bias, position, is_silu)


torch.library.define(
    "braidlm::conv",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? position, bool silu) -> Tensor",
)
torch.library.define(
    "braidlm::conv_backward",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? position, Tensor dy, bool silu) "
    "-> (Tensor, Tensor, Tensor)",
)


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, position: Tensor | None, silu: bool
) -> Tensor:
    """y; the operator without its gradients."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    batch, length, width = x.shape
    per_row = -(-length // WALK)
    args = (x, weight.contiguous(), _or(bias, x), _or(position, x), y)
    args += (*x.stride()[:2], length, width, per_row)
    grid = (per_row * batch, -(-width // CHANNELS), 1)
    _FORWARD.run(
        _key(x, weight, bias, position), grid, args, _options(weight, bias, position, silu), 1
    )
    return y


torch.library.impl("braidlm::conv", "default", conv_forward)


@torch.library.register_fake("braidlm::conv")
def _(x, weight, bias, position, silu):
    return x.new_empty(x.shape)


def conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor | None,
    dy: Tensor,
    silu: bool,
    d_x: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; that of x is written into `d_x` where it is given."""
    x, dy = (v if v.stride(-1) == 1 else v.contiguous() for v in (x, dy))
    batch, length, width = x.shape
    per_row = -(-length // WALK)
    columns = weight.shape[1]
    if d_x is None:
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    shares = x.new_empty(per_row * batch, columns + 1, width, dtype=torch.float32)
    args = (x, weight.contiguous(), _or(bias, x), _or(position, x), dy, d_x, shares)
    args += (*x.stride()[:2], *dy.stride()[:2], *d_x.stride()[:2], length, width, per_row)
    grid = (per_row * batch, -(-width // CHANNELS), 1)
    key = _key(x, weight, bias, position, dy, d_x)
    _BACKWARD.run(key, grid, args, _options(weight, bias, position, silu), 1)
    sums = shares.sum(0)
    d_bias = sums.new_empty(0) if bias is None else sums[columns].to(bias.dtype)
    return d_x, sums[:columns].flip(0).t().to(weight.dtype).contiguous(), d_bias


torch.library.impl("braidlm::conv_backward", "default", conv_backward)


@torch.library.register_fake("braidlm::conv_backward")
def _(x, weight, bias, position, dy, silu):
    d_bias = x.new_empty(0, dtype=torch.float32) if bias is None else torch.empty_like(bias)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), d_bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, position = ctx.saved_tensors
    found = torch.ops.braidlm.conv_backward(x, weight, bias, position, dy, ctx.silu)
    d_x, d_weight, d_bias = found
    return d_x, d_weight, None if bias is None else d_bias, None, None


torch.library.register_autograd("braidlm::conv", _gradients, setup_context=_setup)


def _options(
    weight: Tensor, bias: Tensor | None, position: Tensor | None, silu: bool
) -> dict[str, Any]:
    """What kernels are compiled for."""
    return {
        "K": weight.shape[1],
        "SILU": silu,
        "HAS_BIAS": bias is not None,
        "HAS_POSITION": position is not None,
        "WALK": WALK,
        "CB": CHANNELS,
    }


def _key(*tensors: Tensor | None) -> int:
    """Stands for everything that compiled kernels depend on but their constants."""
    first = tensors[0]
    return known_as((first if first is None else first.device.index, WALK, described(*tensors)))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor


@triton_jit
def _line(base, t, stride, c, T, D):
    """Token t of channels c of a (T, D) matrix in fp32, zero outside."""
    ok = (c < D) & (t >= 0) & (t < T)
    return tl.load(base + t * stride + c, mask=ok, other=0.0).to(tl.float32)


@triton_jit
def _place(position_ptr, t, T, HAS_POSITION: tl.constexpr):
    """Tokens of the same document before token t; none beyond the row's end."""
    place = tl.where(t < T, t, -1)
    if HAS_POSITION:
        place = tl.load(position_ptr + t, mask=t < T, other=-1).to(tl.int32)
    return place


@triton_jit
def _column(weight_ptr, c, D, k: tl.constexpr, K: tl.constexpr):
    """What multiplies the token k before, of channels c."""
    value = tl.zeros((c.shape[0],), tl.float32)
    if k < K:
        value = tl.load(weight_ptr + c * K + (K - 1 - k), mask=c < D, other=0.0).to(tl.float32)
    return value


@triton_jit
def _bias(bias_ptr, c, D, HAS_BIAS: tl.constexpr):
    value = tl.zeros((c.shape[0],), tl.float32)
    if HAS_BIAS:
        value = tl.load(bias_ptr + c, mask=c < D, other=0.0).to(tl.float32)
    return value


@triton_jit
def _value(x0, x1, x2, x3, w0, w1, w2, w3, bias, place, HAS_POSITION: tl.constexpr):
    """h of a token that stands at `place`: a document's first ones have fewer before them. Before a
    row's first token there are zeros."""
    if HAS_POSITION:
        x1 = tl.where(place >= 1, x1, 0.0)
        x2 = tl.where(place >= 2, x2, 0.0)
        x3 = tl.where(place >= 3, x3, 0.0)
    return bias + x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3


@triton_jit
def _conv_forward(
    x_ptr, weight_ptr, bias_ptr, position_ptr, y_ptr, sxb, sxt, T, D, per_row,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_POSITION: tl.constexpr,
    WALK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // per_row).to(tl.int64)
    first = (tl.program_id(0) % per_row * WALK).to(tl.int64)  # and so is every place
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    x, position, y = x_ptr + b * sxb, position_ptr + b * T, y_ptr + b * T * D
    w0, w1 = _column(weight_ptr, c, D, 0, K), _column(weight_ptr, c, D, 1, K)
    w2, w3 = _column(weight_ptr, c, D, 2, K), _column(weight_ptr, c, D, 3, K)
    bias = _bias(bias_ptr, c, D, HAS_BIAS)
    x1, x2 = _line(x, first - 1, sxt, c, T, D), _line(x, first - 2, sxt, c, T, D)
    x3 = _line(x, first - 3, sxt, c, T, D)
    for start in range(first, tl.minimum(first + WALK, T), TOGETHER):
        a0, a1 = _line(x, start, sxt, c, T, D), _line(x, start + 1, sxt, c, T, D)
        a2, a3 = _line(x, start + 2, sxt, c, T, D), _line(x, start + 3, sxt, c, T, D)
        for i in tl.static_range(TOGETHER):  # type: ignore[reportGeneralTypeIssues]
            t = start + i
            x0 = a0 if i == 0 else a1 if i == 1 else a2 if i == 2 else a3
            place = _place(position, t, T, HAS_POSITION)
            h = _value(x0, x1, x2, x3, w0, w1, w2, w3, bias, place, HAS_POSITION)
            if SILU:
                h *= tl.sigmoid(h)
            tl.store(y + t * D + c, h, mask=(c < D) & (t < T))
            x3, x2, x1 = x2, x1, x0


@triton_jit
def _conv_backward(
    x_ptr, weight_ptr, bias_ptr, position_ptr, dy_ptr, dx_ptr, shares_ptr,
    sxb, sxt, syb, syt, sdb, sdt, T, D, per_row,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_POSITION: tl.constexpr,
    WALK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """dx, and a walk's sums -> shares (walks, K + 1, D): of k = 0..K-1, then of bias.

    Going on to three tokens behind its own gives a walk the rest of its dx.
    """
    b = (tl.program_id(0) // per_row).to(tl.int64)
    first = (tl.program_id(0) % per_row * WALK).to(tl.int64)  # and so is every place
    stop = tl.minimum(first + WALK, T)
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    x, dy = x_ptr + b * sxb, dy_ptr + b * syb
    position, dx = position_ptr + b * T, dx_ptr + b * sdb
    w0, w1 = _column(weight_ptr, c, D, 0, K), _column(weight_ptr, c, D, 1, K)
    w2, w3 = _column(weight_ptr, c, D, 2, K), _column(weight_ptr, c, D, 3, K)
    bias = _bias(bias_ptr, c, D, HAS_BIAS)
    x1, x2 = _line(x, first - 1, sxt, c, T, D), _line(x, first - 2, sxt, c, T, D)
    x3 = _line(x, first - 3, sxt, c, T, D)
    zero = tl.zeros((CB,), tl.float32)
    sums, sum0, sum1, sum2, sum3 = zero, zero, zero, zero, zero
    d1, d2, d3 = zero, zero, zero  # dx of the three tokens before, as far as it is known
    for start in range(first, stop + 3, TOGETHER):
        a0, a1 = _line(x, start, sxt, c, T, D), _line(x, start + 1, sxt, c, T, D)
        a2, a3 = _line(x, start + 2, sxt, c, T, D), _line(x, start + 3, sxt, c, T, D)
        g0, g1 = _line(dy, start, syt, c, T, D), _line(dy, start + 1, syt, c, T, D)
        g2, g3 = _line(dy, start + 2, syt, c, T, D), _line(dy, start + 3, syt, c, T, D)
        for i in tl.static_range(TOGETHER):  # type: ignore[reportGeneralTypeIssues]
            t = start + i
            x0 = a0 if i == 0 else a1 if i == 1 else a2 if i == 2 else a3
            g = g0 if i == 0 else g1 if i == 1 else g2 if i == 2 else g3
            place = _place(position, t, T, HAS_POSITION)
            if SILU:
                h = _value(x0, x1, x2, x3, w0, w1, w2, w3, bias, place, HAS_POSITION)
                s = tl.sigmoid(h)
                g *= s * (1.0 + h * (1.0 - s))
            g_1, g_2, g_3 = g, g, g
            if HAS_POSITION:
                g_1, g_2 = tl.where(place >= 1, g, 0.0), tl.where(place >= 2, g, 0.0)
                g_3 = tl.where(place >= 3, g, 0.0)
            ours = tl.where(t < stop, 1.0, 0.0)
            sums += g * ours
            sum0 += g * ours * x0
            sum1 += g_1 * ours * x1
            sum2 += g_2 * ours * x2
            sum3 += g_3 * ours * x3
            done = t - 3
            ok = (c < D) & (done >= first) & (done < stop)
            tl.store(dx + done * sdt + c, d3 + g_3 * w3, mask=ok)
            d3, d2, d1 = d2 + g_2 * w2, d1 + g_1 * w1, g * w0
            x3, x2, x1 = x2, x1, x0
    to = shares_ptr + tl.program_id(0).to(tl.int64) * (K + 1) * D + c
    tl.store(to, sum0, mask=c < D)
    tl.store(to + D, sum1, mask=(c < D) & (K > 1))
    tl.store(to + 2 * D, sum2, mask=(c < D) & (K > 2))
    tl.store(to + 3 * D, sum3, mask=(c < D) & (K > 3))
    tl.store(to + K * D, sums, mask=c < D)


_FORWARD, _BACKWARD = Launcher(_conv_forward), Launcher(_conv_backward)
