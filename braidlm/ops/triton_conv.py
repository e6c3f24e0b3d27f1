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
from braidlm.ops.triton_activation import sigmoid
from braidlm.segments import Segments

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

CHANNELS = 128
"""Channels of a program, which is one warp: the less it holds in registers, the more of them run
at a time."""
FORWARD_WALK, BACKWARD_WALK, SHORTEST = 64, 128, 32
"""Tokens of a walk, at most and at least. Going back each walk reads three tokens of the next one
and has a share of the sums; where there are few tokens, more walks are worth that."""
ENOUGH = 2048
"""Programs that keep any machine busy."""
TOGETHER: Any = tl.constexpr(4)
"""Tokens that are loaded together."""
STAGES = 3
"""Groups of tokens that are on their way, and the one that is worked on."""
SHARES = {"ROWS": 128, "CB": 32}
"""Walks and channels of the shares that are added up at once."""


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
    sizes, grid = _plan(x, FORWARD_WALK)
    args = (x, weight.contiguous(), _or(bias, x), _or(position, x), y, *x.stride()[:2], *sizes)
    key = _key(sizes, x, weight, bias, position)
    _FORWARD.run(key, grid, args, _options(weight, bias, position, silu), 1)
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
    sizes, grid = _plan(x, BACKWARD_WALK)
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if d_x is None else d_x
    walks, rows = x.shape[0] * sizes[2], weight.shape[1] + 1
    shares = x.new_empty(walks, rows, x.shape[2], dtype=torch.float32)
    args = (x, weight.contiguous(), _or(bias, x), _or(position, x), dy, d_x, shares)
    args += (*x.stride()[:2], *dy.stride()[:2], *d_x.stride()[:2], *sizes)
    key = _key(sizes, x, weight, bias, position, dy, d_x)
    _BACKWARD.run(key, grid, args, _options(weight, bias, position, silu), 1)
    return d_x, *_sums(shares, weight, bias)


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


def _sums(shares: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """shares (walks, K + 1, D) -> gradients of weight (D, K) and bias (D,), in their dtypes."""
    walks, rows, width = shares.shape
    d_weight = torch.empty(weight.shape, dtype=weight.dtype, device=shares.device)
    shape, dtype = (0, weight.dtype) if bias is None else (bias.shape, bias.dtype)
    d_bias = torch.empty(shape, dtype=dtype, device=shares.device)
    args = (shares, d_weight, _or(None if bias is None else d_bias, d_weight), walks, width)
    grid = (-(-width // SHARES["CB"]), rows if bias is not None else rows - 1, 1)
    key = known_as((shares.device.index, described(shares, d_weight, d_bias)))
    _SUMS.run(key, grid, args, {"K": rows - 1, **SHARES}, 4)
    return d_weight, d_bias


def _plan(x: Tensor, walk: int) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """T, D, walks of a row, tokens of a walk, blocks of channels; programs."""
    batch, length, width = x.shape
    blocks = -(-width // CHANNELS)
    while walk > SHORTEST and batch * length * blocks < ENOUGH * walk:
        walk //= 2
    per_row = -(-length // walk)
    return (length, width, per_row, walk, blocks), (per_row * batch * blocks, 1, 1)


def _options(
    weight: Tensor, bias: Tensor | None, position: Tensor | None, silu: bool
) -> dict[str, Any]:
    """What kernels are compiled for."""
    return {
        "K": weight.shape[1],
        "SILU": silu,
        "HAS_BIAS": bias is not None,
        "HAS_POSITION": position is not None,
        "CB": CHANNELS,
        "STAGES": STAGES,
    }


def _key(sizes: tuple[int, ...], x: Tensor, *others: Tensor | None) -> int:
    """Stands for everything that compiled kernels depend on but their constants."""
    return known_as((x.device.index, sizes, described(x, *others)))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor


@triton_jit
def _lines(x, t, stride, c, stop, D):
    """Channels c of TOGETHER tokens from token t on, which lies at x; zeros from `stop` on."""
    a = tl.load(x + c, mask=(c < D) & (t < stop), other=0.0)
    b = tl.load(x + stride + c, mask=(c < D) & (t + 1 < stop), other=0.0)
    d = tl.load(x + 2 * stride + c, mask=(c < D) & (t + 2 < stop), other=0.0)
    return a, b, d, tl.load(x + 3 * stride + c, mask=(c < D) & (t + 3 < stop), other=0.0)


@triton_jit
def _before(x, t, stride, c, D):
    """The three tokens before token t in fp32, the last first; before a row there are zeros."""
    a = tl.load(x - stride + c, mask=(c < D) & (t >= 1), other=0.0)
    b = tl.load(x - 2 * stride + c, mask=(c < D) & (t >= 2), other=0.0)
    d = tl.load(x - 3 * stride + c, mask=(c < D) & (t >= 3), other=0.0)
    return a.to(tl.float32), b.to(tl.float32), d.to(tl.float32)


@triton_jit
def _places(position, t, stop, HAS_POSITION: tl.constexpr):
    """Of TOGETHER tokens from token t on, which lies at `position`, how many of the same document
    are before each; -1 from token `stop` on."""
    places = 0, 0, 0, 0
    if HAS_POSITION:
        a = tl.load(position, mask=t < stop, other=-1).to(tl.int32)
        b = tl.load(position + 1, mask=t + 1 < stop, other=-1).to(tl.int32)
        c = tl.load(position + 2, mask=t + 2 < stop, other=-1).to(tl.int32)
        d = tl.load(position + 3, mask=t + 3 < stop, other=-1).to(tl.int32)
        places = a, b, c, d
    return places


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
    """h of a token that stands at `place`: a document's first ones have fewer before them."""
    if HAS_POSITION:
        x1 = tl.where(place >= 1, x1, 0.0)
        x2 = tl.where(place >= 2, x2, 0.0)
        x3 = tl.where(place >= 3, x3, 0.0)
    return bias + x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3


@triton_jit
def _conv_forward(
    x_ptr, weight_ptr, bias_ptr, position_ptr, y_ptr, sxb, sxt, T, D, per_row, walk, blocks,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_POSITION: tl.constexpr,
    CB: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // blocks // per_row).to(tl.int64)
    first = tl.program_id(0) // blocks % per_row * walk
    n = tl.minimum(walk, T - first)
    c = tl.program_id(0) % blocks * CB + tl.arange(0, CB)
    token = b * T + first
    y, position = y_ptr + token * D, position_ptr + token
    x = x_ptr + b * sxb + first.to(tl.int64) * sxt
    w0, w1 = _column(weight_ptr, c, D, 0, K), _column(weight_ptr, c, D, 1, K)
    w2, w3 = _column(weight_ptr, c, D, 2, K), _column(weight_ptr, c, D, 3, K)
    bias = _bias(bias_ptr, c, D, HAS_BIAS)
    x1, x2, x3 = _before(x, first, sxt, c, D)
    ahead = _places(position, 0, n, HAS_POSITION)
    for t in tl.range(0, n, TOGETHER, num_stages=STAGES):  # type: ignore[reportGeneralTypeIssues]
        now, places = _lines(x, t, sxt, c, n, D), ahead
        x, position = x + TOGETHER * sxt, position + TOGETHER
        ahead = _places(position, t + TOGETHER, n, HAS_POSITION)
        for i in tl.static_range(TOGETHER):  # type: ignore[reportGeneralTypeIssues]
            x0 = now[i].to(tl.float32)
            h = _value(x0, x1, x2, x3, w0, w1, w2, w3, bias, places[i], HAS_POSITION)
            if SILU:
                h *= sigmoid(h)
            tl.store(y + c, h, mask=(c < D) & (t + i < n))
            x3, x2, x1 = x2, x1, x0
            y += D


@triton_jit
def _slope(
    x0, x1, x2, x3, w0, w1, w2, w3, bias, place, dy, SILU: tl.constexpr, HAS_POSITION: tl.constexpr
):
    """g of a token, and of it what reaches the three tokens before."""
    g = dy.to(tl.float32)
    if SILU:
        h = _value(x0, x1, x2, x3, w0, w1, w2, w3, bias, place, HAS_POSITION)
        s = sigmoid(h)
        g *= s * (1.0 + h * (1.0 - s))
    g1, g2, g3 = g, g, g
    if HAS_POSITION:
        g1, g2 = tl.where(place >= 1, g, 0.0), tl.where(place >= 2, g, 0.0)
        g3 = tl.where(place >= 3, g, 0.0)
    return g, g1, g2, g3


@triton_jit
def _conv_backward(
    x_ptr, weight_ptr, bias_ptr, position_ptr, dy_ptr, dx_ptr, shares_ptr,
    sxb, sxt, syb, syt, sdb, sdt, T, D, per_row, walk, blocks,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_POSITION: tl.constexpr,
    CB: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx, and a walk's sums -> shares (walks, K + 1, D): of k = 0..K-1, then of bias.

    Going on to three tokens behind its own gives a walk the rest of its dx.
    """
    walk_id = tl.program_id(0) // blocks
    b = (walk_id // per_row).to(tl.int64)
    first = walk_id % per_row * walk
    n = tl.minimum(walk, T - first)
    beyond = tl.minimum(walk + 3, T - first)
    c = tl.program_id(0) % blocks * CB + tl.arange(0, CB)
    position = position_ptr + b * T + first
    x = x_ptr + b * sxb + first.to(tl.int64) * sxt
    dy = dy_ptr + b * syb + first.to(tl.int64) * syt
    dx = dx_ptr + b * sdb + first.to(tl.int64) * sdt - 3 * sdt  # three tokens behind
    w0, w1 = _column(weight_ptr, c, D, 0, K), _column(weight_ptr, c, D, 1, K)
    w2, w3 = _column(weight_ptr, c, D, 2, K), _column(weight_ptr, c, D, 3, K)
    bias = _bias(bias_ptr, c, D, HAS_BIAS)
    x1, x2, x3 = _before(x, first, sxt, c, D)
    zero = tl.zeros((CB,), tl.float32)
    sums, sum0, sum1, sum2, sum3 = zero, zero, zero, zero, zero
    d1, d2, d3 = zero, zero, zero  # dx of the three tokens before, as far as it is known
    ahead = _places(position, 0, beyond, HAS_POSITION)
    for t in tl.range(0, n, TOGETHER, num_stages=STAGES):  # type: ignore[reportGeneralTypeIssues]
        now, places = _lines(x, t, sxt, c, n, D), ahead
        given = _lines(dy, t, syt, c, n, D)
        x, dy, position = x + TOGETHER * sxt, dy + TOGETHER * syt, position + TOGETHER
        ahead = _places(position, t + TOGETHER, beyond, HAS_POSITION)
        for i in tl.static_range(TOGETHER):  # type: ignore[reportGeneralTypeIssues]
            x0 = now[i].to(tl.float32)
            g, g1, g2, g3 = _slope(
                x0, x1, x2, x3, w0, w1, w2, w3, bias, places[i], given[i], SILU, HAS_POSITION
            )
            sums += g
            sum0 += g * x0
            sum1 += g1 * x1
            sum2 += g2 * x2
            sum3 += g3 * x3
            tl.store(dx + c, d3 + g3 * w3, mask=(c < D) & (t + i >= 3))
            d3, d2, d1 = d2 + g2 * w2, d1 + g1 * w1, g * w0
            x3, x2, x1 = x2, x1, x0
            dx += sdt
    t = tl.cdiv(n, TOGETHER) * TOGETHER
    now, given = _lines(x, t, sxt, c, beyond, D), _lines(dy, t, syt, c, beyond, D)
    for i in tl.static_range(3):  # type: ignore[reportGeneralTypeIssues]
        x0 = now[i].to(tl.float32)
        g, g1, g2, g3 = _slope(
            x0, x1, x2, x3, w0, w1, w2, w3, bias, ahead[i], given[i], SILU, HAS_POSITION
        )
        tl.store(dx + c, d3 + g3 * w3, mask=(c < D) & (t + i >= 3) & (t + i < n + 3))
        d3, d2, d1 = d2 + g2 * w2, d1 + g1 * w1, g * w0
        x3, x2, x1 = x2, x1, x0
        dx += sdt
    to = shares_ptr + walk_id.to(tl.int64) * (K + 1) * D + c
    tl.store(to, sum0, mask=c < D)
    tl.store(to + D, sum1, mask=(c < D) & (K > 1))
    tl.store(to + 2 * D, sum2, mask=(c < D) & (K > 2))
    tl.store(to + 3 * D, sum3, mask=(c < D) & (K > 3))
    tl.store(to + K * D, sums, mask=c < D)


@triton_jit
def _add_up(
    shares_ptr, d_weight_ptr, d_bias_ptr, walks, D,
    K: tl.constexpr, ROWS: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """shares (walks, K + 1, D) -> gradient of a column of the weight, or of bias, always in the
    same order: equal calls give equal gradients."""
    c = tl.program_id(0) * CB + tl.arange(0, CB)
    k = tl.program_id(1)
    total = tl.zeros((ROWS, CB), tl.float32)
    for start in range(0, walks, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        ok = (row < walks) & (c < D)[None, :]
        at = row.to(tl.int64) * (K + 1) * D + k * D + c[None, :]
        total += tl.load(shares_ptr + at, mask=ok, other=0.0)
    total = tl.sum(total, 0)
    if k < K:
        tl.store(d_weight_ptr + c * K + (K - 1 - k), total, mask=c < D)
    else:
        tl.store(d_bias_ptr + c, total, mask=c < D)


_FORWARD, _BACKWARD, _SUMS = Launcher(_conv_forward), Launcher(_conv_backward), Launcher(_add_up)
