"""One chunk of the selective scan, forward and back, token by token.

README.md of this folder derives the gradients. Axes: c tokens of a chunk come first, then B rows,
N state columns, I channels, so that a token is one contiguous block and the channels, of which
there are many, are innermost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops.selective_scan.edges import Edge, Edges

LOG2_E = 1 / math.log(2)
"""exp(x) = 2^(x LOG2_E): on a CPU torch's power of two takes 0.4 of the time of its exp."""


class Inputs(NamedTuple):
    """The tensors of one call, or the gradients of each."""

    x: Tensor
    """(B, T, I)"""
    dt: Tensor
    """(B, T, I), at least fp32 as are A, D and the states"""
    A: Tensor
    """(N, I)"""
    B: Tensor
    """(B, T, N)"""
    C: Tensor
    """(B, T, N)"""
    D: Tensor
    """(I,)"""
    initial: Tensor
    """(n_docs + 1, N, I): the state before each document, and zeros before what is none."""

    def chunk(self, start: int, end: int) -> Inputs:
        """The same with some tokens alone, token-major: x and dt (c, B, I), B and C (c, B, N)."""
        x, dt, B, C = (
            tokens(v, start, end, self.dt.dtype) for v in (self.x, self.dt, self.B, self.C)
        )
        return self._replace(x=x, dt=dt, B=B, C=C)


def tokens(v: Tensor, start: int, end: int, dtype: torch.dtype) -> Tensor:
    """(B, T, ...) -> (c, B, ...) in `dtype`."""
    return v[:, start:end].transpose(0, 1).to(dtype).contiguous()


class Room(NamedTuple):
    """Memory for one chunk, used again for the next: what is fresh would have to be mapped."""

    decay: Tensor
    """(c, B, N, I)"""
    states: Tensor
    """(c + 1, B, N, I)"""
    gradients: Tensor
    """(c, B, N, I)"""

    @classmethod
    def make(cls, inputs: Inputs, chunk: int, *, with_gradients: bool) -> Room:
        """Return room for the chunks of a call."""
        n = min(chunk, inputs.x.shape[1])
        shape = (len(inputs.x), *inputs.A.shape)
        made = [inputs.A.new_empty(k, *shape) for k in (n, n + 1, n * with_gradients)]
        return cls(*made)

    def first(self, n: int) -> Room:
        """The same for a chunk of n tokens."""
        return Room(self.decay[:n], self.states[: n + 1], self.gradients[:n])


def walk(here: Inputs, start: int, state: Tensor, edges: Edges, room: Room) -> None:
    """Compute decay and states of a chunk: before each of its tokens, and after the last.

    Args:
        here: the inputs of the chunk.
        start: the column of its first token.
        state: (B, N, I), what enters it.
        edges: where documents begin.
        room: where the results go.
    """
    torch.mul(here.dt[:, :, None], here.A * LOG2_E, out=room.decay)
    room.decay.exp2_()
    after = room.states[1:]
    torch.mul((here.dt * here.x)[:, :, None], here.B[..., None], out=after)
    before = room.states[0].copy_(state)
    for t, (decay, held) in enumerate(zip(room.decay.unbind(0), after.unbind(0), strict=True)):
        if (edge := edges.starts.get(start + t)) is not None:
            before = _begun(before, edge, here)
        before = held.addcmul_(decay, before)


def walk_back(
    here: Inputs, start: int, edges: Edges, d_y: Tensor, d_last: Tensor, room: Room, d: Inputs
) -> Tensor:
    """Compute the gradients of a chunk whose states were computed just now.

    Args:
        here: the inputs of the chunk.
        start: the column of its first token.
        edges: where documents begin.
        d_y: (c, B, I), gradient of its outputs.
        d_last: (B, N, I), gradient of the state after it.
        room: decay and states, which are written over, and in `gradients` what is known already
            of those of the states after each token.
        d: gradients so far. Those of A, D and the initial states grow; those of x, dt, B and C are
            set at the tokens of the chunk.

    Returns:
        The gradient (B, N, I) of the state that enters the chunk.
    """
    decay, states, g = room
    end = start + len(decay)
    d.C[:, start:end] = _over_channels(d_y, states[1:]).transpose(0, 1)
    g.addcmul_(d_y[:, :, None], here.C[..., None])
    g[-1].add_(d_last)
    for t in reversed(range(len(decay))):
        edge = edges.starts.get(start + t)
        if t and edge is None:
            g[t - 1].addcmul_(decay[t], g[t])
            continue
        flow = decay[t] * g[t]
        if edge is not None:
            states[t] = _begun(states[t], edge, here)
            d.initial.index_put_((edge.docs,), flow[edge.rows], accumulate=True)
            flow.index_fill_(0, edge.rows, 0)
        if not t:
            d_state = flow
            break
        g[t - 1].add_(flow)
    _per_token(here, start, decay.mul_(g).mul_(states[:-1]), d_y, g, d)
    return d_state


def _per_token(
    here: Inputs, start: int, rate: Tensor, d_y: Tensor, d_states: Tensor, d: Inputs
) -> None:
    """Gradients of x, dt, A, B and D from those of the states and from `rate`, that of dt A."""
    end = start + len(rate)
    d_u = torch.matmul(here.B[:, :, None], d_states)[:, :, 0]
    u = here.dt * here.x
    d.B[:, start:end] = _over_channels(u, d_states).transpose(0, 1)
    product = d_states  # its room is free now
    d.A.add_(torch.mul(rate, here.dt[:, :, None], out=product).sum((0, 1)))
    d_dt = torch.mul(rate, here.A, out=product).sum(2).addcmul_(d_u, here.x)
    d.dt[:, start:end] = d_dt.transpose(0, 1)
    d.x[:, start:end] = d_u.mul_(here.dt).addcmul_(d_y, here.D).transpose(0, 1)
    d.D.add_((d_y * here.x).sum((0, 1)))


def _over_channels(v: Tensor, states: Tensor) -> Tensor:
    """(c, B, I) and (c, B, N, I) -> (c, B, N): as a row times a matrix, 11 times faster on a CPU
    than as a matrix times a column."""
    return torch.matmul(v[:, :, None], states.transpose(2, 3))[:, :, 0]


def _begun(before: Tensor, edge: Edge, here: Inputs) -> Tensor:
    """`before` (B, N, I) with the initial states in the rows where something begins."""
    return before.index_copy(0, edge.rows, here.initial[edge.docs])
