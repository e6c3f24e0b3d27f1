"""Products of few rows, one operation after the other: the truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.activation import ACTIVATIONS
from braidlm.ops.conv import conv_step
from braidlm.ops.dispatch import state_dtype
from braidlm.ops.rows.parts import ConvStep, Ending, Owed, Read


def product_naive(
    read: Read, weight: Tensor, bias: Tensor | None, ending: Ending, dtype: torch.dtype
) -> Tensor:
    """See `product`; everything is at least fp32."""
    wide = state_dtype(weight.dtype)
    p = F.linear(normed(read, wide), weight.to(wide), None if bias is None else bias.to(wide))
    gate, up = p.chunk(2, dim=-1) if ending.gated else (p, None)
    if ending.activation is not None:
        gate = ACTIVATIONS[ending.activation](gate)
    p = gate if up is None else gate * up
    if ending.conv is not None:
        p = _convolved(p, ending.conv)
    if ending.residual is not None:
        p = ending.residual.to(wide) + ending.factor * p
    return p.to(dtype)


def normed(read: Read, wide: torch.dtype) -> Tensor:
    """Return what the product reads, (n, K)."""
    if read.normed is not None:
        return read.normed.to(wide)
    v = read.x.to(wide)
    if read.has_norm:
        squares = v.square() if read.squares is None else read.squares.to(wide)
        v = v * torch.rsqrt(squares.sum(-1, keepdim=True) / v.shape[-1] + read.eps)
    return v if read.scale is None else v * (read.scale.to(wide) + read.offset)


def owed_naive(read: Read, weight: Tensor, factor: float) -> Owed:
    """See `product_owed`; one share."""
    wide = state_dtype(weight.dtype)
    return Owed(F.linear(normed(read, wide), weight.to(wide))[None], factor)


def settled_naive(read: Read, owed: Owed, dtype: torch.dtype) -> Read:
    """See `settled`."""
    x = owed.added_to(read.x)
    return read._replace(x=x, normed=normed(read._replace(x=x), owed.parts.dtype).to(dtype))


def _convolved(p: Tensor, conv: ConvStep) -> Tensor:
    last = conv.first + len(conv.weight)
    x = p[:, None, conv.first : last].to(conv.state.dtype)
    y, state = conv_step(x, conv.weight, conv.bias, conv.state)
    conv.state.copy_(state)
    return torch.cat((p[:, : conv.first], F.silu(y[:, 0]).to(p.dtype), p[:, last:]), dim=-1)
