"""What lies between Mamba-2's two projections, on a GPU: one operator whose parts are kernels.

    xbc = silu(conv(p[xbc]));  dt = softplus(p[dt] + dt_bias);  y = ssd(x, dt, A, B, C) + D x
    u = norm(y silu(p[z])), or norm(y) silu(p[z])

Forward it is its parts. Going back each part writes its gradient where it lies in the gradient of
p, or of what was convolved, and nothing is put together afterwards: that would cost another pass
over both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from braidlm.ops.mamba2 import Shape, Weights
from braidlm.ops.ssd.triton import ssd_backward, ssd_forward
from braidlm.ops.triton_conv import conv_backward, conv_forward
from braidlm.ops.triton_norm import norm_backward, norm_forward


def mamba2_triton(
    p: Tensor, weights: Weights, doc: Tensor | None, position: Tensor | None, shape: Shape
) -> Tensor:
    """p (B, T, widths of z, xbc and dt) -> u (B, T, H P); doc, position (B, T) if packed."""
    return _Inner.apply(p, *weights, doc, position, shape)  # type: ignore[return-value]


class _Inner(torch.autograd.Function):
    """Keeps p, what was convolved, the steps and y."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, *inputs: Any) -> Tensor:
        *tensors, doc, position, shape = inputs
        w = Weights(*tensors)
        z, xbc, raw = p.split(shape.widths, dim=-1)
        xbc = conv_forward(xbc, w.conv, w.conv_bias, position, True)
        steps = raw + w.dt_bias
        dt = F.softplus(steps)
        x, b, c = shape.parts(xbc)
        scan = (x, dt, w.A, b, c, w.D, doc, position, None)
        y = ssd_forward(*scan, shape.chunk_size, False)[0].flatten(2)
        ctx.save_for_backward(p, xbc, steps, dt, y, *w, doc, position)
        ctx.shape = shape
        return norm_forward(y, z, w.scale, *_norm_settings(shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_u: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        p, xbc, steps, dt, y, *tensors, doc, position = ctx.saved_tensors
        w, shape = Weights(*tensors), ctx.shape
        z, given, _ = p.split(shape.widths, dim=-1)
        d_p = torch.empty(p.shape, dtype=p.dtype, device=p.device)
        d_z, d_given, d_raw = d_p.split(shape.widths, dim=-1)
        d_y, _, d_scale = norm_backward(y, z, w.scale, d_u, *_norm_settings(shape), d_z)
        x, b, c = shape.parts(xbc)
        d_xbc = torch.empty(xbc.shape, dtype=xbc.dtype, device=xbc.device)
        scan = (x, dt, w.A, b, c, w.D, doc, position, None)
        d_y = d_y.view(x.shape)
        found = ssd_backward(*scan, d_y, None, shape.chunk_size, shape.parts(d_xbc))
        _, d_dt, d_A, _, _, d_D, _ = found
        d_conv = conv_backward(given, w.conv, w.conv_bias, position, d_xbc, True, d_given)
        assert d_dt is not None
        d_dt = torch.ops.aten.softplus_backward(d_dt, steps, 1.0, 20.0)
        d_raw.copy_(d_dt)
        d_bias = None if w.conv_bias is None else d_conv[2]
        return d_p, d_conv[1], d_bias, d_dt.sum((0, 1)), d_A, d_D, d_scale, None, None, None


def _norm_settings(shape: Shape) -> tuple[float, int, bool, bool]:
    return shape.eps, shape.n_groups, shape.norm_first, True
