"""SwiGLU on a GPU: one kernel each way, nothing kept but the input.

    y = s m g u,  s = sigmoid(m g);   d_g = dy u m s (1 + m g (1 - s));   d_u = dy s m g

Both halves of the gradient are written where they lie, so that the projection before reads one
matrix, and g, u and dy are read once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from braidlm.ops.launch import Launcher, described, known_as

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

BLOCK = 1024
"""Channels of a program, of one row."""


def swiglu_triton(p: Tensor, gate_multiplier: float) -> Tensor:
    """p (..., 2 W) on a GPU -> (..., W) in its dtype."""
    return torch.ops.braidlm.swiglu(p, gate_multiplier)


torch.library.define("braidlm::swiglu", "(Tensor p, float multiplier) -> Tensor")
torch.library.define(
    "braidlm::swiglu_backward", "(Tensor p, Tensor dy, float multiplier) -> Tensor"
)


def swiglu_forward(p: Tensor, multiplier: float) -> Tensor:
    """y; the operator without its gradients."""
    y = torch.empty((*p.shape[:-1], p.shape[-1] // 2), dtype=p.dtype, device=p.device)
    rows = _rows(p)
    args = (rows, y, rows.stride(0), y.shape[-1], multiplier)
    _FORWARD.run(_key(rows), _grid(y), args, {"BLOCK": BLOCK}, 4)
    return y


torch.library.impl("braidlm::swiglu", "default", swiglu_forward)


@torch.library.register_fake("braidlm::swiglu")
def _(p, multiplier):
    return p.new_empty((*p.shape[:-1], p.shape[-1] // 2))


def swiglu_backward(p: Tensor, dy: Tensor, multiplier: float, y: Tensor | None = None) -> Tensor:
    """The gradient of p; y is written once more into `y` where it is given."""
    d_p = torch.empty(p.shape, dtype=p.dtype, device=p.device)
    rows, d_rows, again = _rows(p), _rows(dy), d_p if y is None else y
    args = (rows, d_rows, d_p, again, rows.stride(0), d_rows.stride(0), dy.shape[-1], multiplier)
    options = {"AGAIN": y is not None, "BLOCK": BLOCK}
    _BACKWARD.run(_key(rows, d_rows), _grid(dy), args, options, 4)
    return d_p


torch.library.impl("braidlm::swiglu_backward", "default", swiglu_backward)


@torch.library.register_fake("braidlm::swiglu_backward")
def _(p, dy, multiplier):
    return p.new_empty(p.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    p, ctx.multiplier = inputs
    ctx.save_for_backward(p)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
    return torch.ops.braidlm.swiglu_backward(*ctx.saved_tensors, dy, ctx.multiplier), None


torch.library.register_autograd("braidlm::swiglu", _gradient, setup_context=_setup)


def swiglu_linear_triton(p: Tensor, weight: Tensor, multiplier: float) -> Tensor:
    """p (..., 2 W), weight (D, W) in one dtype -> y weight^T (..., D), y not kept."""
    return _Linear.apply(p, weight, multiplier)  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    """The gradient of the weight asks for y, which the kernel of dp finds again on its way."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, weight: Tensor, multiplier: float) -> Tensor:
        ctx.save_for_backward(p, weight)
        ctx.multiplier = multiplier
        return F.linear(swiglu_forward(p, multiplier), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        p, weight = ctx.saved_tensors
        dy = d_out @ weight
        y = torch.empty(dy.shape, dtype=dy.dtype, device=dy.device)
        d_p = swiglu_backward(p, dy, ctx.multiplier, y)
        return d_p, _rows(d_out).t() @ _rows(y), None


def _rows(x: Tensor) -> Tensor:
    """x as a matrix whose channels lie side by side."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _key(*tensors: Tensor) -> int:
    """Stands for everything that compiled kernels depend on but their constants."""
    return known_as((tensors[0].device.index, described(*tensors)))


def _grid(y: Tensor) -> tuple[int, int, int]:
    return max(1, y.numel() // y.shape[-1]), -(-y.shape[-1] // BLOCK), 1


@triton_jit
def _halves(p_ptr, row, stride, c, W, multiplier):
    """m g and u in fp32, and s."""
    at = p_ptr + row * stride + c
    gate = tl.load(at, mask=c < W, other=0.0).to(tl.float32) * multiplier
    up = tl.load(at + W, mask=c < W, other=0.0).to(tl.float32)
    return gate, up, tl.sigmoid(gate)


@triton_jit
def _swiglu_forward(p_ptr, y_ptr, stride, W, multiplier, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate, up, s = _halves(p_ptr, row, stride, c, W, multiplier)
    tl.store(y_ptr + row * W + c, gate * s * up, mask=c < W)


@triton_jit
def _swiglu_backward(
    p_ptr, dy_ptr, dp_ptr, y_ptr, stride, d_stride, W, multiplier,
    AGAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dp, and y once more if `AGAIN`."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate, up, s = _halves(p_ptr, row, stride, c, W, multiplier)
    dy = tl.load(dy_ptr + row * d_stride + c, mask=c < W, other=0.0).to(tl.float32)
    at = dp_ptr + row * 2 * W + c
    tl.store(at, dy * up * multiplier * s * (1.0 + gate * (1.0 - s)), mask=c < W)
    tl.store(at + W, dy * gate * s, mask=c < W)
    if AGAIN:
        tl.store(y_ptr + row * W + c, gate * s * up, mask=c < W)


_FORWARD, _BACKWARD = Launcher(_swiglu_forward), Launcher(_swiglu_backward)
