"""A batch cut into chunks, chunk by chunk in memory, so that a walk over them copies nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.segments import PADDING, Segments

NO_DOCUMENT = -2
"""Marks the state that enters the first chunk of a row: it belongs to no document."""


class Sizes(NamedTuple):
    """The sizes of one call: K = n_chunks * batch blocks of `chunk` tokens, chunk by chunk."""

    batch: int
    length: int
    n_chunks: int
    chunk: int
    n_groups: int
    """Key heads."""
    per_group: int
    """R, value heads that share one key head."""
    head_dim: int
    v_head_dim: int

    @property
    def n_heads(self) -> int:
        """H, value heads."""
        return self.n_groups * self.per_group

    @property
    def n_blocks(self) -> int:
        """K, chunks of the whole batch."""
        return self.n_chunks * self.batch


class Blocks(NamedTuple):
    """The inputs in chunks, at least fp32; E is 1 for a decay per head, D for one per channel.

    Padded tokens have beta = 0 and g = 0: they neither write nor decay.
    """

    sizes: Sizes
    q: Tensor
    """(K, G, 1, c, D), times scale"""
    k: Tensor
    """(K, G, 1, c, D)"""
    v: Tensor
    """(K, G, R, c, Dv)"""
    cum: Tensor
    """(K, G, R, c, E): log decay from the start of the chunk up to and including each token"""
    beta: Tensor
    """(K, G, R, c, 1)"""
    doc: Tensor | None
    """(K, c): document of each token, or None when rows are documents"""
    entering: Tensor | None
    """(K, 1): document of the state that enters the chunk"""


def cut(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    chunk_size: int,
    segments: Segments | None,
) -> Blocks:
    """Pad the batch to whole chunks and cut it; a short batch is one chunk of its own length."""
    batch, length, n_groups, head_dim = k.shape
    chunk = min(chunk_size, length)
    sizes = Sizes(
        *(batch, length, -(-length // chunk), chunk),
        *(n_groups, v.shape[2] // n_groups, head_dim, v.shape[3]),
    )
    doc = entering = None
    wide = state_dtype(v.dtype)
    q, k, v, g, beta = (x.to(wide) for x in (q, k, v, g, beta))
    g = g[..., None] if g.dim() == 3 else g
    beta = beta[..., None]
    if segments is not None:
        is_real = segments.is_real[..., None, None]
        g, beta = g * is_real, beta * is_real
        doc = F.pad(segments.doc, (0, sizes.n_chunks * chunk - length), value=PADDING)
        doc = doc.view(batch, -1, chunk).transpose(0, 1)
        entering = F.pad(doc[:-1, :, -1], (0, 0, 1, 0), value=NO_DOCUMENT).reshape(-1, 1)
        doc = doc.reshape(-1, chunk)
    q, k, v, g, beta = (_blocks(x, sizes) for x in (q * scale, k, v, g, beta))
    cum = g.clamp_min(_log_of_zero(wide)).cumsum(-2)
    return Blocks(sizes, q, k, v, cum, beta, doc, entering)


def since_entering(blocks: Blocks) -> Tensor:
    """(K, G, R, c, E): what is left of the state that enters the chunk after each token.

    0 for tokens of another document than that state's.
    """
    decay = torch.exp(blocks.cum)
    if blocks.doc is None:
        return decay
    return decay * (blocks.doc == blocks.entering)[:, None, None, :, None]


def until_end(blocks: Blocks) -> Tensor:
    """(K, G, R, c, E): what is left at the end of the chunk of what each token wrote.

    0 for tokens of another document than the chunk's last one.
    """
    decay = torch.exp(blocks.cum[..., -1:, :] - blocks.cum)
    if blocks.doc is None:
        return decay
    return decay * (blocks.doc == blocks.doc[:, -1:])[:, None, None, :, None]


def uncut(y: Tensor, sizes: Sizes) -> Tensor:
    """(K, G, R, c, Dv) -> (B, T, H, Dv)."""
    y = y.view(sizes.n_chunks, sizes.batch, sizes.n_heads, sizes.chunk, -1)
    y = y.permute(1, 0, 3, 2, 4).reshape(sizes.batch, -1, sizes.n_heads, y.shape[-1])
    return y[:, : sizes.length]


def _blocks(x: Tensor, sizes: Sizes) -> Tensor:
    """(B, T, heads, E) -> (K, G, heads / G, c, E)."""
    missing = sizes.n_chunks * sizes.chunk - sizes.length
    if missing:
        x = F.pad(x, (0, 0, 0, 0, 0, missing))
    x = x.view(sizes.batch, sizes.n_chunks, sizes.chunk, sizes.n_groups, -1, x.shape[-1])
    return x.permute(1, 0, 3, 4, 2, 5).contiguous().flatten(0, 1)


def _log_of_zero(dtype: torch.dtype) -> float:
    """exp of this is zero in `dtype`: a stronger decay changes nothing but spoils the sums."""
    return -746.0 if dtype == torch.float64 else -104.0
