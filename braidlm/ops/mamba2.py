"""Mamba-2 between its projections as one operator, where its parts' kernels can share gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.conv import CONV
from braidlm.ops.dispatch import Call
from braidlm.ops.norm import NORM
from braidlm.ops.ssd import SSD
from braidlm.segments import Segments


class Shape(NamedTuple):
    """The sizes of a mixer, and its settings."""

    n_heads: int
    head_dim: int
    n_groups: int
    d_state: int
    chunk_size: int
    eps: float
    norm_first: bool

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of z, of xbc and of dt."""
        inner = self.n_heads * self.head_dim
        return inner, inner + 2 * self.n_groups * self.d_state, self.n_heads

    def parts(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """xbc (B, T, ...) -> x (B, T, H, P), B and C (B, T, G, N), views."""
        inner, bc = self.n_heads * self.head_dim, self.n_groups * self.d_state
        x, b, c = xbc.split([inner, bc, bc], dim=-1)
        groups = (self.n_groups, self.d_state)
        heads = x.unflatten(-1, (self.n_heads, self.head_dim))
        return heads, b.unflatten(-1, groups), c.unflatten(-1, groups)


class Weights(NamedTuple):
    """What is learned: the convolution's in the dtype of p, the rest in fp32."""

    conv: Tensor
    """(width of xbc, K)."""
    conv_bias: Tensor | None
    """(width of xbc,)."""
    dt_bias: Tensor
    """(H,)."""
    A: Tensor
    """(H,), negative."""
    D: Tensor
    """(H,)."""
    scale: Tensor
    """(H P,), of the norm."""


def joins(p: Tensor, sizes: Mapping[str, int], segments: Segments | None) -> bool:
    """Whether training on p would run the Triton kernels of all parts, and so may run `joined`.

    Args:
        p: (B, T, ...), what the input projection gives.
        sizes: K columns of the convolution, heads of width P, states of width N, W channels of a
            group of the norm.
        segments: where documents lie; None: each row is one document.
    """
    if not dispatch.needs_grad(p) or torch.compiler.is_compiling():
        return False
    call = Call.of(p, {**sizes, "T": p.shape[1]}, (p,), segments)
    return all(one.choose("auto", call).name == "triton" for one in (CONV, SSD, NORM))


def joined(p: Tensor, weights: Weights, segments: Segments | None, shape: Shape) -> Tensor:
    """p (B, T, widths of z, x B C and dt) -> u (B, T, H P), see `triton_mamba2`."""
    from braidlm.ops.triton_mamba2 import mamba2_triton  # a CPU does without triton

    doc = position = None
    if segments is not None:
        doc, position = segments.doc.contiguous(), segments.position.contiguous()
    with dispatch.own_precision(p):
        return mamba2_triton(p, weights, doc, position, shape)
