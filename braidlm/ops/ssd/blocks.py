"""A batch cut into chunks, and the scan of the states between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.segments import PADDING, Segments

NO_DOCUMENT = -2
"""Marks the state that enters the first chunk of a row: it belongs to no document."""


class Sizes(NamedTuple):
    """The sizes of one call: K = batch * n_chunks blocks of `chunk` tokens."""

    batch: int
    length: int
    n_chunks: int
    chunk: int
    n_heads: int
    head_dim: int
    n_groups: int
    d_state: int

    @property
    def n_blocks(self) -> int:
        """K, chunks of the whole batch."""
        return self.batch * self.n_chunks

    @property
    def per_group(self) -> int:
        """R, heads that share one group's B and C."""
        return self.n_heads // self.n_groups


class Blocks(NamedTuple):
    """The inputs in chunks; padded tokens have dt = 0, so they neither add nor decay."""

    sizes: Sizes
    x: Tensor
    """(K, c, H, P)"""
    dt: Tensor
    """(K, c, H), at least fp32"""
    cum: Tensor
    """(K, c, H): log decay from the start of the chunk up to and including each token"""
    B: Tensor
    """(K * G, c, N) in the dtype of x"""
    C: Tensor
    """(K * G, c, N) in the dtype of x"""
    doc: Tensor | None
    """(K, c): document of each token, or None when rows are documents"""
    entering: Tensor | None
    """(K, 1): document of the state that enters the chunk"""


def cut(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    segments: Segments | None,
) -> Blocks:
    """Pad the batch to whole chunks and cut it; a short batch is one chunk of its own length."""
    batch, length, n_heads, head_dim = x.shape
    n_groups, d_state = B.shape[2:]
    chunk = min(chunk_size, length)
    n_chunks = -(-length // chunk)
    sizes = Sizes(batch, length, n_chunks, chunk, n_heads, head_dim, n_groups, d_state)
    doc = entering = None
    dt = dt.to(state_dtype(x.dtype))
    if segments is not None:
        dt = dt * segments.is_real[..., None]
        doc = F.pad(segments.doc, (0, n_chunks * chunk - length), value=PADDING).view(-1, chunk)
        last = doc[:, -1].view(batch, n_chunks)
        entering = F.pad(last[:, :-1], (1, 0), value=NO_DOCUMENT).reshape(-1, 1)
    x, dt, B, C = (_blocks(v, sizes) for v in (x, dt, B, C))
    cum = (dt * A.to(dt.dtype)).clamp_min(_log_of_zero(dt.dtype)).cumsum(1)
    B, C = (_by_group(v.to(x.dtype)) for v in (B, C))
    return Blocks(sizes, x, dt, cum, B, C, doc, entering)


def _blocks(v: Tensor, sizes: Sizes) -> Tensor:
    missing = sizes.n_chunks * sizes.chunk - sizes.length
    if missing:
        v = F.pad(v, (0, 0) * (v.dim() - 2) + (0, missing))
    return v.reshape(sizes.n_blocks, sizes.chunk, *v.shape[2:])


def _by_group(v: Tensor) -> Tensor:
    """(K, c, G, N) -> (K * G, c, N); no copy for one group."""
    return v.transpose(1, 2).reshape(-1, v.shape[1], v.shape[3])


def _log_of_zero(dtype: torch.dtype) -> float:
    """exp of this is zero in `dtype`: a stronger decay changes nothing but spoils the sums."""
    return -746.0 if dtype == torch.float64 else -104.0


class _Scan(torch.autograd.Function):
    """S_{k+1} = g_k S_k + s_k over chunks, linear in their number forward and backward."""

    @staticmethod
    def forward(ctx: Any, added: Tensor, gain: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        entering = torch.empty_like(added)
        state = first
        for k in range(added.shape[1]):
            entering[:, k] = state
            state = torch.addcmul(added[:, k], state, gain[:, k])
        ctx.save_for_backward(entering, gain)
        return entering, state

    @staticmethod
    def backward(ctx: Any, d_entering: Tensor, d_last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entering, gain = ctx.saved_tensors
        d_added = torch.empty_like(entering)
        d_state = d_last
        for k in reversed(range(entering.shape[1])):
            d_added[:, k] = d_state
            d_state = torch.addcmul(d_entering[:, k], d_state, gain[:, k])
        d_gain = (d_added * entering).sum(dim=(3, 5), keepdim=True)
        return d_added, d_gain, d_state


def scan_chunks(added: Tensor, gain: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk and after the last.

    Args:
        added: (B, n_chunks, G, N, R, P), what each chunk adds to the state at its end.
        gain: (B, n_chunks, G, 1, R, 1), how much of the entering state is left at its end.
        first: (B, G, N, R, P), the state before the first chunk.

    Returns:
        entering (B, n_chunks, G, N, R, P) and last (B, G, N, R, P).
    """
    return _Scan.apply(added, gain, first)  # type: ignore[return-value]
