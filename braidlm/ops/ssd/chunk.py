"""SSD by matrix products: inside a chunk as masked attention, between chunks as a scan of states.

README.md of this folder derives every line. Axes: K = B * n_chunks blocks of c tokens, H heads of
width P in G groups of R heads, N state width. A state is laid out (G, N, R * P) here, so that one
product per group serves all its heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.ssd import packed
from braidlm.ops.ssd.blocks import Blocks, cut, scan_chunks
from braidlm.ops.ssd.inside import inside
from braidlm.segments import Segments


def ssd_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Matrix products inside chunks, a scan between them; see `ssd` for the arguments."""
    blocks = cut(x, dt, A, B, C, chunk_size, segments)
    s = blocks.sizes
    u = (blocks.x * blocks.dt[..., None]).to(x.dtype)
    y = inside(u, blocks.cum, blocks.B, blocks.C, blocks.doc)
    entering = last = None
    starts_from_rows = segments is None and initial_state is not None
    if s.n_chunks > 1 or starts_from_rows or (segments is None and return_state):
        entering, last = _states(blocks, u, segments, initial_state)
        if s.n_chunks > 1 or starts_from_rows:
            y = _add_from_state(blocks, y, entering)
    if segments is not None and initial_state is not None:
        where, addition = packed.outputs_of_initial(blocks, segments, initial_state)
        y = y.index_add(0, where, addition.to(y.dtype))
    y = y.reshape(s.batch, -1, s.n_heads, s.head_dim)[:, : s.length]
    if not return_state:
        return y, None
    if segments is not None:
        return y, packed.final_states(blocks, segments, u, entering, initial_state)
    assert last is not None
    final = last.permute(0, 1, 3, 4, 2).reshape(s.batch, s.n_heads, s.head_dim, s.d_state)
    return y, final


def _states(
    blocks: Blocks, u: Tensor, segments: Segments | None, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """States entering the chunks (K, G, N, R, P) and the last one of each row (B, G, N, R, P)."""
    s = blocks.sizes
    to_end = blocks.cum[:, -1:] - blocks.cum
    gain = blocks.cum[:, -1]
    if blocks.doc is not None:
        reaches = blocks.doc == blocks.doc[:, -1:]
        to_end = to_end.masked_fill(~reaches[..., None], -torch.inf)
        gain = gain.masked_fill(blocks.entering != blocks.doc[:, -1:], -torch.inf)
    inflow = (u * torch.exp(to_end)[..., None]).to(u.dtype)
    inflow = inflow.view(-1, s.chunk, s.n_groups, s.per_group * s.head_dim)
    inflow = inflow.transpose(1, 2).reshape(-1, s.chunk, s.per_group * s.head_dim)
    added = torch.bmm(blocks.B.transpose(1, 2), inflow).to(blocks.cum.dtype)
    added = added.view(-1, s.n_groups, s.d_state, s.per_group, s.head_dim)
    first = added.new_zeros(s.batch, *added.shape[1:])
    if initial is not None and segments is not None:
        where, addition = packed.states_of_initial(blocks, segments, initial.to(added.dtype))
        added = added.index_add(0, where, addition)
    elif initial is not None:
        first = initial.to(added.dtype).view(
            s.batch, s.n_groups, s.per_group, s.head_dim, s.d_state
        )
        first = first.permute(0, 1, 4, 2, 3).contiguous()
    gain = torch.exp(gain).view(s.batch, s.n_chunks, s.n_groups, 1, s.per_group, 1)
    entering, last = scan_chunks(added.view(s.batch, s.n_chunks, *added.shape[1:]), gain, first)
    return entering.flatten(0, 1), last


def _add_from_state(blocks: Blocks, y: Tensor, entering: Tensor) -> Tensor:
    """`y` (K, c, H, P) and what the state that enters each chunk gives to its tokens."""
    s = blocks.sizes
    state = entering.to(blocks.C.dtype).reshape(-1, s.d_state, s.per_group * s.head_dim)
    read = torch.bmm(blocks.C, state).view(-1, s.n_groups, s.chunk, s.per_group, s.head_dim)
    read = read.transpose(1, 2).reshape(-1, s.chunk, s.n_heads, s.head_dim)
    decay = torch.exp(blocks.cum)
    if blocks.doc is not None:
        decay = decay * (blocks.doc == blocks.entering)[..., None]
    return torch.addcmul(y, read, decay[..., None]).to(y.dtype)
