"""The selective scan chunk by chunk: never more than the states of one chunk are held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import state_dtype
from braidlm.ops.selective_scan.edges import Edges, find
from braidlm.ops.selective_scan.gate import gated, steps
from braidlm.ops.selective_scan.walk import Inputs, Room, tokens, walk, walk_back
from braidlm.segments import Segments


def scan_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Token by token, the states of one chunk at a time; see `selective_scan`."""
    batch, length, width = x.shape
    wide = state_dtype(x.dtype)
    dt = steps(dt.to(wide), dt_bias, dt_softplus)
    n_docs = batch if segments is None else segments.n_docs
    A = A.to(wide).t().contiguous()
    zeros = A.new_zeros(1, *A.shape)
    if initial_state is None:
        initial = zeros.expand(n_docs + 1, -1, -1)
    else:
        initial = torch.cat((initial_state.to(wide).transpose(1, 2), zeros))
    D = A.new_zeros(width) if D is None else D.to(wide)
    inputs = Inputs(x, dt, A, B, C, D, initial)
    edges = find(segments, batch, length, x.device)
    if dispatch.needs_grad(*inputs):
        y, final = _Scan.apply(*inputs, edges, chunk_size)  # type: ignore[misc]
    else:
        y, final, _ = _scan(inputs, edges, chunk_size, keep=False)
    return gated(y, z), final.transpose(1, 2).contiguous() if return_state else None


def _scan(
    inputs: Inputs, edges: Edges, chunk: int, *, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y (B, T, I), final states (n_docs, N, I), and the states (B, N, I) that enter the chunks."""
    batch, length, _ = inputs.x.shape
    y = torch.empty_like(inputs.x)
    final = torch.empty_like(inputs.initial[:-1], memory_format=torch.contiguous_format)
    state = inputs.A.new_zeros(batch, *inputs.A.shape)
    everywhere = Room.make(inputs, chunk, with_gradients=False)
    entering = []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        entering += [state] if keep else []
        here, room = inputs.chunk(start, end), everywhere.first(end - start)
        walk(here, start, state, edges, room)
        read = torch.matmul(here.C[:, :, None], room.states[1:])[:, :, 0]
        y[:, start:end] = read.addcmul_(here.x, here.D).transpose(0, 1)
        for t in range(start, end):
            if (edge := edges.ends.get(t)) is not None:
                final[edge.docs] = room.states[t - start + 1, edge.rows]
        state = room.states[-1].clone()
    return y, final, entering


class _Scan(torch.autograd.Function):
    """Keeps the inputs and one state per chunk; computes the others again, from the last chunk."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.edges, ctx.chunk = arguments
        y, final, entering = _scan(Inputs(*tensors), ctx.edges, ctx.chunk, keep=True)
        ctx.save_for_backward(*tensors, *entering)
        return y, final

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        n = len(Inputs._fields)
        saved = ctx.saved_tensors  # once: activation checkpointing unpacks no tensor twice
        inputs, entering = Inputs(*saved[:n]), saved[n:]
        d = Inputs(*(v.new_zeros(v.shape) for v in inputs))
        everywhere = Room.make(inputs, ctx.chunk, with_gradients=True)
        carry = torch.zeros_like(entering[0])
        for k in reversed(range(len(entering))):
            start = k * ctx.chunk
            end = min(start + ctx.chunk, d_y.shape[1])
            here, room = inputs.chunk(start, end), everywhere.first(end - start)
            walk(here, start, entering[k], ctx.edges, room)
            room.gradients.zero_()
            for t in range(start, end):
                if (edge := ctx.edges.ends.get(t)) is not None:
                    room.gradients[t - start, edge.rows] = d_final[edge.docs]
            d_here = tokens(d_y, start, end, carry.dtype)
            carry = walk_back(here, start, ctx.edges, d_here, carry, room, d)
        return (*d, None, None)
