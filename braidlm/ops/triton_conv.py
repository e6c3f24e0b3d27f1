"""The short causal convolution on a GPU, its SiLU inside.

    h_t = bias + sum_k w_k x_{t-k},  w_k = weight[:, K-1-k],  k up to t's place in its document
    y_t = h_t sigmoid(h_t), or h_t

    g_t = dy_t dy_t/dh_t;  dx_t = sum_k w_k g_{t+k};  dw_k = sum_t g_t x_{t-k};  dbias = sum_t g_t

Nothing is kept but the inputs. Going back, one kernel writes g, and another reads it. A program of
the first takes blocks of tokens of the same channels in turn, and so adds up its share of the
gradients of weight and bias in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from braidlm.segments import Segments

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

TOKENS, CHANNELS = 32, 128
"""Of a block."""
SUMMED = 16, 64
"""Tokens and channels of one where five sums of it stay in registers."""
PROGRAMS = 256
"""Programs that share the tokens of a block of channels going back."""


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


@torch.library.impl("braidlm::conv", "default")
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, position: Tensor | None, silu: bool
) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    batch, length, width = x.shape
    grid = (-(-length // TOKENS), -(-width // CHANNELS), batch)
    _forward[grid](
        *(x, weight.contiguous(), _or(bias, x), _or(position, x), y),
        *(*x.stride()[:2], length, width),
        **_options(weight, bias, position, silu),
    )
    return y


@torch.library.register_fake("braidlm::conv")
def _(x, weight, bias, position, silu):
    return x.new_empty(x.shape)


@torch.library.impl("braidlm::conv_backward", "default")
def _conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor | None,
    dy: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, dy = (v if v.stride(-1) == 1 else v.contiguous() for v in (x, dy))
    batch, length, width = x.shape
    n_blocks = -(-length // SUMMED[0]) * batch
    each = -(-n_blocks // PROGRAMS)
    n_programs = -(-n_blocks // each)
    columns = weight.shape[1]
    options = _options(weight, bias, position, silu)
    g, d_x = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    shares = x.new_empty(n_programs, columns + 1, width, dtype=torch.float32)
    place = _or(position, x)
    _slopes[(n_programs, -(-width // SUMMED[1]))](
        *(x, weight.contiguous(), _or(bias, x), place, dy, g, shares),
        *(*x.stride()[:2], *dy.stride()[:2], length, width, n_blocks, each),
        **options | dict(zip(("TB", "CB"), SUMMED, strict=True)),
    )
    _inputs[(-(-length // TOKENS), -(-width // CHANNELS), batch)](
        *(g, weight.contiguous(), place, d_x, length, width),
        **{name: options[name] for name in ("K", "HAS_POSITION", "TB", "CB", "num_warps")},
    )
    sums = shares.sum(0)
    d_bias = sums.new_empty(0) if bias is None else sums[columns].to(bias.dtype)
    return d_x, sums[:columns].flip(0).t().to(weight.dtype).contiguous(), d_bias


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
        "TB": TOKENS,
        "CB": CHANNELS,
        "num_warps": 4,
    }


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor


@triton_jit
def _rows(base, t, stride, c, T, D):
    """Tokens t and channels c of a (T, D) matrix in fp32, zero outside."""
    ok = ((t >= 0) & (t < T))[:, None] & (c < D)[None, :]
    place = t.to(tl.int64)[:, None] * stride + c[None, :]
    return tl.load(base + place, mask=ok, other=0.0).to(tl.float32)


@triton_jit
def _place(position_ptr, t, T, HAS_POSITION: tl.constexpr):
    """Tokens of the same document before each of t; none of tokens beyond the row's ends."""
    if HAS_POSITION:
        return tl.load(position_ptr + t, mask=(t >= 0) & (t < T), other=-1).to(tl.int32)
    return tl.where(t < T, t, -1)


@triton_jit
def _column(weight_ptr, c, D, k: tl.constexpr, K: tl.constexpr):
    """What multiplies the token k before, of channels c."""
    value = tl.zeros((c.shape[0],), tl.float32)
    if k < K:
        value = tl.load(weight_ptr + c * K + (K - 1 - k), mask=c < D, other=0.0).to(tl.float32)
    return value[None, :]


@triton_jit
def _earlier(x_ptr, t, place, k: tl.constexpr, stride, c, T, D, K: tl.constexpr):
    """x of the token k before each of t, zero where that is none of its document."""
    x = tl.zeros((t.shape[0], c.shape[0]), tl.float32)
    if k < K:
        x = tl.where((place >= k)[:, None], _rows(x_ptr, t - k, stride, c, T, D), 0.0)
    return x


@triton_jit
def _forward(
    x_ptr, weight_ptr, bias_ptr, position_ptr, y_ptr, sxb, sxt, T, D,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_POSITION: tl.constexpr,
    TB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * TB + tl.arange(0, TB)
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    place = _place(position_ptr + b * T, t, T, HAS_POSITION)
    h = tl.zeros((TB, CB), tl.float32)
    if HAS_BIAS:
        h += tl.load(bias_ptr + c, mask=c < D, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        x = _earlier(x_ptr + b * sxb, t, place, k, sxt, c, T, D, K)
        h += x * _column(weight_ptr, c, D, k, K)
    if SILU:
        h *= tl.sigmoid(h)
    ok = (t < T)[:, None] & (c < D)[None, :]
    tl.store(y_ptr + (b * T + t)[:, None] * D + c[None, :], h, mask=ok)


@triton_jit
def _slopes(
    x_ptr, weight_ptr, bias_ptr, position_ptr, dy_ptr, g_ptr, shares_ptr,
    sxb, sxt, syb, syt, T, D, n_blocks, each,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_POSITION: tl.constexpr,
    TB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """g, and each program's sums -> shares (programs, K + 1, D): of k = 0..K-1, then of bias."""
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    per_row = tl.cdiv(T, TB)
    w0, w1 = _column(weight_ptr, c, D, 0, K), _column(weight_ptr, c, D, 1, K)
    w2, w3 = _column(weight_ptr, c, D, 2, K), _column(weight_ptr, c, D, 3, K)
    bias = tl.zeros((1, CB), tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + c, mask=c < D, other=0.0).to(tl.float32)[None, :]
    sums = tl.zeros((TB, CB), tl.float32)
    sum0, sum1, sum2, sum3 = sums, sums, sums, sums
    first = tl.program_id(0) * each
    for block in range(first, tl.minimum(first + each, n_blocks)):
        b = (block // per_row).to(tl.int64)
        t = block % per_row * TB + tl.arange(0, TB)
        x = x_ptr + b * sxb
        place = _place(position_ptr + b * T, t, T, HAS_POSITION)
        g = _rows(dy_ptr + b * syb, t, syt, c, T, D)
        x0, x1 = (
            _earlier(x, t, place, 0, sxt, c, T, D, K),
            _earlier(x, t, place, 1, sxt, c, T, D, K),
        )
        x2, x3 = (
            _earlier(x, t, place, 2, sxt, c, T, D, K),
            _earlier(x, t, place, 3, sxt, c, T, D, K),
        )
        if SILU:
            h = x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3 + bias
            s = tl.sigmoid(h)
            g *= s * (1.0 + h * (1.0 - s))
        ok = (t < T)[:, None] & (c < D)[None, :]
        tl.store(g_ptr + (b * T + t)[:, None] * D + c[None, :], g, mask=ok)
        sums += g
        sum0 += g * x0
        sum1 += g * x1
        sum2 += g * x2
        sum3 += g * x3
    to = shares_ptr + tl.program_id(0) * (K + 1) * D + c
    tl.store(to, tl.sum(sum0, 0), mask=c < D)
    tl.store(to + D, tl.sum(sum1, 0), mask=(c < D) & (K > 1))
    tl.store(to + 2 * D, tl.sum(sum2, 0), mask=(c < D) & (K > 2))
    tl.store(to + 3 * D, tl.sum(sum3, 0), mask=(c < D) & (K > 3))
    tl.store(to + K * D, tl.sum(sums, 0), mask=c < D)


@triton_jit
def _inputs(
    g_ptr, weight_ptr, position_ptr, dx_ptr, T, D,
    K: tl.constexpr, HAS_POSITION: tl.constexpr, TB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """dx from g."""
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * TB + tl.arange(0, TB)
    c = tl.program_id(1) * CB + tl.arange(0, CB)
    d_x = tl.zeros((TB, CB), tl.float32)
    for k in tl.static_range(K):
        place = _place(position_ptr + b * T, t + k, T, HAS_POSITION)
        g = _rows(g_ptr + b * T * D, t + k, D, c, T, D)
        d_x += tl.where((place >= k)[:, None], g, 0.0) * _column(weight_ptr, c, D, k, K)
    ok = (t < T)[:, None] & (c < D)[None, :]
    tl.store(dx_ptr + (b * T + t)[:, None] * D + c[None, :], d_x, mask=ok)
