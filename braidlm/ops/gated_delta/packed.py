"""States of packed documents, which begin and end anywhere inside a chunk.

Each looks only at the one chunk in which a document begins or ends: n_docs small products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops.gated_delta.blocks import Blocks
from braidlm.segments import Segments


class Opening(NamedTuple):
    """What documents' initial states give to the blocks in which the documents begin."""

    where: Tensor
    """(n_docs,): the block in which each document begins."""
    initial: Tensor
    """(n_docs, G, R, D, Dv): the states before the documents' first tokens."""
    decay: Tensor
    """(n_docs, G, R, c, E): what is left of them after each token; 0 outside the document."""
    found: Tensor
    """(n_docs, G, R, c, Dv): what the tokens' keys find in them."""
    read: Tensor
    """(n_docs, G, R, c, Dv): what the tokens' queries read from them."""

    @classmethod
    def of(cls, blocks: Blocks, segments: Segments, initial: Tensor) -> Opening:
        """Look at the first block of every document."""
        where, offset = place(blocks, segments, segments.starts)
        document = torch.arange(len(where), device=where.device)
        cum = blocks.cum[where]
        before = cum[document, :, :, (offset - 1).clamp_min(0)]
        before = torch.where((offset > 0)[:, None, None, None], before, 0)
        mine = _mine(blocks, where)
        decay = torch.exp(torch.where(mine, cum - before[..., None, :], 0)) * mine
        found = (decay * blocks.k[where]) @ initial
        return cls(where, initial, decay, found, (decay * blocks.q[where]) @ initial)

    def unseen(self, values: Tensor) -> Tensor:
        """(K, G, R, c, Dv) values without what the keys find already."""
        return values.index_add(0, self.where, self.found, alpha=-1)

    def added_to(self, y: Tensor) -> Tensor:
        """(K, G, R, c, Dv) outputs with what the queries read."""
        return y.index_add(0, self.where, self.read)

    def left(self, n_blocks: int) -> Tensor:
        """(K, G, R, D, Dv): what is left at the end of each block; 0 if the document ends."""
        left = self.decay[..., -1, :, None] * self.initial
        return left.new_zeros(n_blocks, *left.shape[1:]).index_add(0, self.where, left)


def final_states(
    blocks: Blocks,
    segments: Segments,
    change: Tensor,
    entering: Tensor | None,
    opening: Opening | None,
) -> Tensor:
    """The state after each document's last token, (n_docs, G, R, D, Dv).

    Args:
        blocks: the batch in chunks.
        segments: where documents lie.
        change: (K, G, R, c, Dv), what each token adds along its key.
        entering: (K, G, R, D, Dv), states that enter the blocks, or None if all are zero.
        opening: the documents' initial states, or None.
    """
    where, offset = place(blocks, segments, segments.last)
    document = torch.arange(len(where), device=where.device)
    mine = _mine(blocks, where)
    cum = blocks.cum[where]
    at_end = cum[document, :, :, offset]
    weight = torch.exp(torch.where(mine, at_end[..., None, :] - cum, 0)) * mine
    state = (weight * blocks.k[where]).transpose(-1, -2) @ change[where]
    if entering is not None:
        assert blocks.entering is not None
        goes_on = (blocks.entering[where, 0] == document)[:, None, None, None]
        kept = torch.exp(torch.where(goes_on, at_end, 0)) * goes_on
        state = torch.addcmul(state, kept[..., None], entering[where])
    if opening is not None:
        is_whole = (opening.where == where)[:, None, None, None]
        kept = opening.decay[document, :, :, offset] * is_whole
        state = torch.addcmul(state, kept[..., None], opening.initial)
    return state


def place(blocks: Blocks, segments: Segments, column: Tensor) -> tuple[Tensor, Tensor]:
    """The block that holds each document's token at `column`, and its place there: (n_docs,)."""
    s = blocks.sizes
    return column // s.chunk * s.batch + segments.rows, column % s.chunk


def _mine(blocks: Blocks, where: Tensor) -> Tensor:
    """(n_docs, 1, 1, c, 1) bool: which tokens of block `where[d]` belong to document d."""
    assert blocks.doc is not None
    document = torch.arange(len(where), device=where.device)
    return (blocks.doc[where] == document[:, None])[:, None, None, :, None]
