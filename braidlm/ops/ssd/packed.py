"""States of documents that begin and end anywhere inside a chunk.

Each function looks only at the one chunk in which a document begins or ends: n_docs small products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.ssd.blocks import Blocks
from braidlm.segments import Segments


def block_of(blocks: Blocks, segments: Segments, column: Tensor) -> Tensor:
    """(n_docs,): the block that holds each document's token at `column`."""
    return segments.rows * blocks.sizes.n_chunks + column // blocks.sizes.chunk


def _mine(blocks: Blocks, where: Tensor) -> Tensor:
    """(n_docs, c, 1) bool: which tokens of block `where[d]` belong to document d."""
    assert blocks.doc is not None
    document = torch.arange(len(where), device=where.device)
    return (blocks.doc[where] == document[:, None])[..., None]


def _heads(state: Tensor, blocks: Blocks) -> Tensor:
    """(n_docs, H, P, N) -> (n_docs, G, N, R * P), in the state's dtype."""
    s = blocks.sizes
    grouped = state.reshape(-1, s.n_groups, s.per_group * s.head_dim, s.d_state)
    return grouped.transpose(2, 3)


def _group_blocks(v: Tensor, blocks: Blocks, where: Tensor) -> Tensor:
    """Rows `where` of a (K * G, c, N) tensor, as (n_docs * G, c, N)."""
    s = blocks.sizes
    return v.view(-1, s.n_groups, s.chunk, s.d_state)[where].flatten(0, 1)


def log_decay_since_start(blocks: Blocks, segments: Segments) -> tuple[Tensor, Tensor]:
    """Where each document begins, and the log decay since just before its first token.

    Returns:
        block (n_docs,) and log decay (n_docs, c, H) over that block; 0 outside the document.
    """
    s = blocks.sizes
    where = block_of(blocks, segments, segments.starts)
    cum = blocks.cum[where]
    document = torch.arange(len(where), device=where.device)
    offset = segments.starts % s.chunk
    before = torch.where(offset > 0, offset - 1, 0)
    base = torch.where((offset > 0)[:, None], cum[document, before], 0)
    return where, torch.where(_mine(blocks, where), cum - base[:, None], 0)


def outputs_of_initial(
    blocks: Blocks, segments: Segments, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """What the initial states give to the outputs of the chunks in which documents begin.

    Returns:
        block (n_docs,) and the addition (n_docs, c, H, P), zero outside the document.
    """
    s = blocks.sizes
    where, log_decay = log_decay_since_start(blocks, segments)
    weight = torch.exp(log_decay) * _mine(blocks, where)
    c = _group_blocks(blocks.C, blocks, where)
    state = _heads(initial, blocks).to(c.dtype).flatten(0, 1)
    read = torch.bmm(c, state).view(-1, s.n_groups, s.chunk, s.per_group, s.head_dim)
    read = read.transpose(1, 2).reshape(-1, s.chunk, s.n_heads, s.head_dim)
    return where, read * weight[..., None]


def states_of_initial(blocks: Blocks, segments: Segments, initial: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the initial states at the end of the chunks in which documents begin.

    Returns:
        block (n_docs,) and the addition (n_docs, G, N, R, P), zero unless the document goes on to
        the end of the chunk.
    """
    s = blocks.sizes
    where, log_decay = log_decay_since_start(blocks, segments)
    weight = (torch.exp(log_decay) * _mine(blocks, where))[:, -1]
    state = _heads(initial, blocks).view(-1, s.n_groups, s.d_state, s.per_group, s.head_dim)
    return where, state * weight.view(-1, s.n_groups, 1, s.per_group, 1)


def final_states(
    blocks: Blocks,
    segments: Segments,
    u: Tensor,
    entering: Tensor | None,
    initial: Tensor | None,
) -> Tensor:
    """The state after each document's last token, (n_docs, H, P, N).

    Args:
        blocks: the batch in chunks.
        segments: where documents lie.
        u: (K, c, H, P) inputs times dt.
        entering: (K, G, N, R, P) states that enter the chunks, or None if all are zero.
        initial: (n_docs, H, P, N) or None.
    """
    s = blocks.sizes
    where = block_of(blocks, segments, segments.last)
    document = torch.arange(len(where), device=where.device)
    mine = _mine(blocks, where)
    cum = blocks.cum[where]
    at_end = cum[document, segments.last % s.chunk]
    weight = torch.exp(torch.where(mine, at_end[:, None] - cum, 0)) * mine
    inflow = (u[where] * weight[..., None]).to(u.dtype)
    inflow = inflow.view(-1, s.chunk, s.n_groups, s.per_group * s.head_dim)
    inflow = inflow.transpose(1, 2).reshape(-1, s.chunk, s.per_group * s.head_dim)
    b = _group_blocks(blocks.B, blocks, where)
    state = torch.bmm(inflow.transpose(1, 2), b).to(cum.dtype)
    state = state.view(-1, s.n_heads, s.head_dim, s.d_state)
    if entering is not None:
        assert blocks.entering is not None
        goes_on = blocks.entering[where, 0] == document
        left = torch.exp(torch.where(goes_on[:, None], at_end, 0)) * goes_on[:, None]
        old = entering[where].flatten(3).transpose(2, 3).reshape(state.shape)
        state = torch.addcmul(state, old, left[..., None, None])
    if initial is not None:
        start_block, log_decay = log_decay_since_start(blocks, segments)
        is_whole = (start_block == where)[:, None]
        since_start = torch.where(is_whole, log_decay[document, segments.last % s.chunk], 0)
        left = torch.exp(since_start) * is_whole
        state = torch.addcmul(state, initial, left[..., None, None])
    return state
