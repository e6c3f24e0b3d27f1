"""One chunk of the selective scan, forward and back, token by token.

README.md of this folder derives the gradients. Axes: c tokens of a chunk come first, then B rows,
N state columns, I channels, so that a token is one contiguous block and the channels, of which
there are many, are innermost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops.selective_scan.edges import Edge, Edges


class Inputs(NamedTuple):
    """The tensors of one call, or the gradients of each."""

    x: Tensor
    """(B, T, I)"""
    dt: Tensor
    """(B, T, I), at least fp32 as are A, D and the states; zero at padding"""
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


def walk(here: Inputs, start: int, state: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """Compute the states of a chunk.

    Args:
        here: the inputs of the chunk.
        start: the column of its first token.
        state: (B, N, I), what enters it.
        edges: where documents begin.

    Returns:
        decay (c, B, N, I), and the states (c + 1, B, N, I) before each token and after the last.
    """
    decay = (here.dt[:, :, None] * here.A).exp_()
    states = decay.new_empty(len(decay) + 1, *state.shape)
    torch.mul((here.dt * here.x)[:, :, None], here.B[..., None], out=states[1:])
    before = states[0].copy_(state)
    for t, (kept, after) in enumerate(zip(decay.unbind(0), states[1:].unbind(0), strict=True)):
        if (edge := edges.starts.get(start + t)) is not None:
            before = _begun(before, edge, here)
        before = after.addcmul_(kept, before)
    return decay, states


def walk_back(
    here: Inputs, start: int, state: Tensor, edges: Edges, d_y: Tensor, d_after: Tensor, d: Inputs
) -> Tensor:
    """Compute the gradients of a chunk.

    Args:
        here: the inputs of the chunk.
        start: the column of its first token.
        state: (B, N, I), what enters it.
        edges: where documents begin.
        d_y: (c, B, I), gradient of its outputs.
        d_after: (c, B, N, I), gradients of the states after each token from elsewhere than later
            tokens of the chunk; overwritten.
        d: gradients so far. Those of A (B, N, I), D and the initial states grow; those of x, dt, B
            and C are set at the tokens of the chunk.

    Returns:
        The gradient (B, N, I) of the state that enters the chunk.
    """
    flow, states = walk(here, start, state, edges)
    end = start + len(flow)
    d.C[:, start:end] = torch.matmul(states[1:], d_y[..., None])[..., 0].transpose(0, 1)
    carry = torch.zeros_like(state)
    for t in reversed(range(len(flow))):
        carry = flow[t].mul_(d_after[t].addcmul_(d_y[t, :, None], here.C[t, ..., None]).add_(carry))
        if (edge := edges.starts.get(start + t)) is not None:
            states[t] = _begun(states[t], edge, here)
            d.initial.index_put_((edge.docs,), carry[edge.rows], accumulate=True)
            carry = carry.index_fill(0, edge.rows, 0)
    d_state = carry.clone()  # the next line writes over it
    _per_token(here, start, states[:-1], flow, d_y, d_after, d)
    return d_state


def _per_token(
    here: Inputs, start: int, before: Tensor, flow: Tensor, d_y: Tensor, d_states: Tensor, d: Inputs
) -> None:
    """Gradients of x, dt, A, B and D from those of the states, `flow` being d_states * decay."""
    end = start + len(flow)
    rate = flow.mul_(before)  # d loss / d (dt A)
    d_u = torch.matmul(here.B[:, :, None], d_states)[:, :, 0]
    u = here.dt * here.x
    d.B[:, start:end] = torch.matmul(d_states, u[..., None])[..., 0].transpose(0, 1)
    for one, dt in zip(rate.unbind(0), here.dt.unbind(0), strict=True):
        d.A.addcmul_(one, dt[:, None])
    d.dt[:, start:end] = rate.mul_(here.A).sum(2).addcmul_(d_u, here.x).transpose(0, 1)
    d.x[:, start:end] = d_u.mul_(here.dt).addcmul_(d_y, here.D).transpose(0, 1)
    d.D.add_((d_y * here.x).sum((0, 1)))


def _begun(before: Tensor, edge: Edge, here: Inputs) -> Tensor:
    """`before` (B, N, I) with the initial states in the rows where something begins."""
    return before.index_copy(0, edge.rows, here.initial[edge.docs])
