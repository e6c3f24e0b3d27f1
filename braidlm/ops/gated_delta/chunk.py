"""The gated delta rule by matrix products: a triangular system inside a chunk, a scan between them.

README.md of this folder derives every line. Axes: K = n_chunks * B blocks of c tokens, G key heads
with R value heads each, D and Dv channels of a key and of a value, E channels of a decay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.gated_delta import packed
from braidlm.ops.gated_delta.blocks import (
    Blocks,
    Sizes,
    cut,
    since_entering,
    uncut,
    until_end,
)
from braidlm.ops.gated_delta.scores import scores
from braidlm.segments import Segments


def gated_delta_chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Triangular systems inside chunks, a scan between them; see `gated_delta`."""
    blocks = cut(q, k, v, g, beta, scale, chunk_size, segments)
    s = blocks.sizes
    opening = first = None
    if initial_state is not None:
        initial_state = initial_state.to(blocks.v.dtype)
        initial_state = initial_state.unflatten(1, (s.n_groups, s.per_group))
        if segments is None:
            first = initial_state
        else:
            opening = packed.Opening.of(blocks, segments, initial_state)
    kk, qk = scores(blocks)
    values = blocks.v if opening is None else opening.unseen(blocks.v)
    inverse = _inverse(blocks.beta * kk)
    change = inverse @ (blocks.beta * values)
    entering = last = None
    if s.n_chunks > 1 or first is not None:
        decay = since_entering(blocks)
        reading = inverse @ (blocks.beta * decay * blocks.k)
        change, entering, last = _scan(blocks, change, reading, first, opening, return_state)
        y = qk @ change + (decay * blocks.q) @ entering
    else:
        y = qk @ change
        if return_state and segments is None:
            last = (until_end(blocks) * blocks.k).transpose(-1, -2) @ change
    y = uncut(y if opening is None else opening.added_to(y), s).to(v.dtype)
    if not return_state:
        return y, None
    if segments is not None:
        last = packed.final_states(blocks, segments, change, entering, opening)
    assert last is not None
    return y, last.reshape(-1, s.n_heads, s.head_dim, s.v_head_dim)


def _inverse(system: Tensor) -> Tensor:
    """(I + the strictly lower part of `system`)^-1, by substitution: (..., c, c).

    One small inverse and two products are faster than substituting values and keys.
    """
    identity = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    return torch.linalg.solve_triangular(
        system, identity.expand_as(system), upper=False, unitriangular=True
    )


def _scan(
    blocks: Blocks,
    change: Tensor,
    reading: Tensor,
    first: Tensor | None,
    opening: packed.Opening | None,
    return_last: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Carry the state through the chunks: linear in their number.

    Args:
        blocks: the batch in chunks.
        change: (K, G, R, c, Dv), what each token would add if nothing entered its chunk.
        reading: (K, G, R, c, D), what is to be taken off that for each entering state.
        first: (B, G, R, D, Dv), the states before the first chunk, or None for zeros.
        opening: the initial states of packed documents, or None.
        return_last: whether the state after the last chunk is computed.

    Returns:
        what each token adds (K, G, R, c, Dv), the states that enter the chunks (K, G, R, D, Dv),
        and the last one (B * H, D, Dv) or None.
    """
    s = blocks.sizes
    written = (until_end(blocks) * blocks.k).transpose(-1, -2)
    gain = since_entering(blocks)[..., -1, :, None]
    # Taking all parts of a tensor at once makes their gradients one tensor instead of one each.
    parts = [_by_chunk(x, s) for x in (change, reading, written, gain)]
    left = None if opening is None else _by_chunk(opening.left(s.n_blocks), s)
    state = None if first is None else first.flatten(0, 2)
    zeros = change.new_zeros(s.batch * s.n_heads, s.head_dim, s.v_head_dim)
    changes, states = [], []
    for n, (u, w, k, kept) in enumerate(zip(*parts, strict=True)):
        states.append(zeros if state is None else state)
        changes.append(u if state is None else torch.baddbmm(u, w, state, alpha=-1))
        if n + 1 == s.n_chunks and not return_last:
            break
        wrote = torch.bmm(k, changes[n])
        state = wrote if state is None else torch.addcmul(wrote, kept, state)
        state = state if left is None else state + left[n]
    entering = torch.stack(states).view(s.n_blocks, s.n_groups, s.per_group, *zeros.shape[1:])
    return torch.stack(changes).view(change.shape), entering, state


def _by_chunk(x: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
    """(K, G, R, ...) -> for each chunk (B * H, ...)."""
    return x.reshape(sizes.n_chunks, sizes.batch * sizes.n_heads, *x.shape[3:]).unbind(0)
