"""The selective scan on a GPU: the recurrence of README.md, token by token, in registers.

One warp carries the states of a few channels over a piece of their row, so that nothing but inputs
and outputs touches the device's memory. A row is one piece, unless there are too few channels to
fill the machine: then what enters each piece is found first, from what every piece adds to zeros
and from the sum of its steps. Forward keeps the state before each chunk; back, a chunk is walked
from there again, and softplus and gate are computed again too.

Layouts: x, dt, z, y (B, T, I); B, C (B, T, N), made fp32 once, since every program reads them;
states (n, I, N), fp32 like everything inside. Offsets by tokens and states are 64 bits wide.

Source: Gu and Dao, "Mamba" (arXiv 2312.00752), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.selective_scan import triton_back, triton_call, triton_forward
from braidlm.ops.selective_scan.triton_call import Call, Inputs, dense, either
from braidlm.segments import Segments

forward: Any = triton_forward  # no type checker knows what a launch takes
back: Any = triton_back


def scan_triton(
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
    """A few kernels each way; see `selective_scan` for the arguments. Chunks have a fixed size."""
    del chunk_size
    n_docs, begins, ends = x.shape[0], None, None
    if segments is not None:
        n_docs = segments.n_docs
        begins, ends = _edges(segments.doc)
    first = None
    if initial_state is not None:
        first = initial_state.float()
    tensors = (x, dt, A, B, C, D, z, dt_bias, begins, ends, first)
    keep = dispatch.needs_grad(x, dt, A, B, C, D, z, dt_bias, first)
    y, last, _ = torch.ops.braidlm.selective_scan(*tensors, dt_softplus, n_docs, return_state, keep)
    return y, last if return_state else None


def _edges(doc: Tensor) -> tuple[Tensor, Tensor]:
    """What begins at each token, -2 for nothing, and what ends there; both (B, T) int32."""
    doc = doc.to(torch.int32)
    changes = doc[:, 1:] != doc[:, :-1]
    begins, ends = doc.clone(), doc.clone()
    begins[:, 1:].masked_fill_(~changes, -2)
    ends[:, :-1].masked_fill_(~changes, -2)
    return begins, ends


_TENSORS = (
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? begins, Tensor? ends, Tensor? first, bool dt_softplus, "
)
torch.library.define(
    "braidlm::selective_scan",
    _TENSORS + "SymInt n_docs, bool return_state, bool keep) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "braidlm::selective_scan_backward",
    _TENSORS + "Tensor each, Tensor dy, Tensor? d_last) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("braidlm::selective_scan", "default")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last states and those before each chunk, which are empty if not asked for."""
    *tensors, is_softplus, n_docs, return_state, keep = arguments
    call = Call(Inputs(*tensors), "forward")
    inputs = Inputs(*tensors).prepared(call)
    x, first = inputs.x, inputs.first
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    each = call.states(call.batch, call.n_chunks) if keep else call.numbers(0)
    last = call.states(n_docs) if return_state else call.numbers(0)
    initial = first if call.has_doc else None
    rows = (x, inputs.dt, either(inputs.z, x))

    def scan(n: int, into: Tensor | None, after: Tensor, span: Tensor, **options: bool) -> None:
        forward.scan[(call.n_blocks, n, call.batch)](
            *(either(v, x) for v in (*inputs[:10], initial, into)),
            *(y, each, after, span, call.room(n, 4 * triton_call.CHUNK)),
            *(*(v.stride(0) for v in rows), call.rows),
            *(call.length, call.per_piece, call.n_pieces, call.n_chunks),
            **{f"S{name}": v.stride(1) for name, v in zip(_ROWS[:3], rows, strict=True)},
            HAS_D=inputs.D is not None,
            HAS_INTO=into is not None,
            HAS_FIRST=initial is not None,
            **inputs.around(is_softplus),
            **options,
            **call.options,
        )

    into = None if call.has_doc else first
    if call.n_pieces > 1:
        after, span = call.after(), call.span()
        scan(call.n_pieces - 1, None, after, span, HAS_Y=False, HAS_EACH=False, HAS_LAST=False)
        into = call.carry(after, span, inputs.A, into, back=False)
    scan(call.n_pieces, into, last, last, HAS_Y=True, HAS_EACH=keep, HAS_LAST=return_state)
    return y, last, each


@torch.library.register_fake("braidlm::selective_scan")
def _(x, dt, A, B, C, D, z, bias, begins, ends, first, softplus, n_docs, return_state, keep):
    batch, length, width = x.shape
    states = (width, B.shape[2])
    last = (n_docs, *states) if return_state else (0,)
    each = (batch, -(-length // triton_call.CHUNK), *states) if keep else (0,)
    return x.new_empty(x.shape), *(x.new_empty(s, dtype=torch.float32) for s in (last, each))


@torch.library.impl("braidlm::selective_scan_backward", "default")
def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias and the first states; empty of what is missing."""
    *tensors, is_softplus, each, dy, d_last = arguments
    given = Inputs(*tensors)
    call = Call(given, "back")
    inputs = given.prepared(call)
    x, dy = inputs.x, dense(dy)
    d_last = None if d_last is None else d_last.contiguous()
    rows = (x, inputs.dt, either(inputs.z, x), dy)
    constants = {f"S{name}": v.stride(1) for name, v in zip(_ROWS, rows, strict=True)}
    constants |= inputs.around(is_softplus) | call.options
    constants["HAS_LAST"] = d_last is not None
    into = None if call.has_doc else d_last
    if call.n_pieces > 1:
        into = _entering_back(call, inputs, dy, d_last, constants)
    dx, d_dt = (torch.empty_like(v, memory_format=_DENSE) for v in rows[:2])
    dz = call.numbers(0) if inputs.z is None else torch.empty_like(inputs.z, memory_format=_DENSE)
    d_a = call.after()
    d_BC = call.numbers(2, call.n_blocks, call.batch, call.whole, call.columns)
    d_D, d_bias = call.numbers(2, call.batch, call.n_pieces, call.width)
    d_first = call.numbers(0) if inputs.first is None else torch.empty_like(inputs.first)
    tokens = triton_call.CHUNK // call.tokens * call.columns + 4 * triton_call.CHUNK + call.tokens
    back.gradients[(call.n_blocks, call.n_pieces, call.batch)](
        *(either(v, x) for v in (*inputs[:8], dy, *inputs[8:], each, d_last, into)),
        *(call.room(call.n_pieces, tokens), dx, d_dt, d_a, d_BC, d_D, dz, d_bias, d_first),
        *(*(v.stride(0) for v in rows), call.rows, call.length, call.per_piece, call.n_chunks),
        HAS_D=inputs.D is not None,
        HAS_INTO=into is not None,
        HAS_FIRST=inputs.first is not None,
        **constants,
    )
    dB, dC = d_BC.sum(1)[:, :, : call.length, : call.d_state]
    sums = (d_a.sum((0, 1)), dB, dC, d_D.sum((0, 1)), d_bias.sum((0, 1)))
    kept = (given.A, given.B, given.C, given.D, given.dt_bias)
    d_a, dB, dC, d_D, d_bias = (
        call.numbers(0) if v is None else d.to(v.dtype) for v, d in zip(kept, sums, strict=True)
    )
    return dx, d_dt, d_a, dB, dC, d_D, dz, d_bias, d_first


_ROWS = ("X", "DT", "Z", "Y")
"""Tensors by token, as kernels call their strides."""
_DENSE = torch.contiguous_format


def _entering_back(
    call: Call, inputs: Inputs, dy: Tensor, d_last: Tensor | None, constants: dict[str, int]
) -> Tensor:
    """The gradient of the state after each piece, (B, n_pieces, I, N)."""
    x, dt, after, span = inputs.x, inputs.dt, call.after(), call.span()
    z = either(inputs.z, x)
    room = call.room(call.n_pieces - 1, 2 * triton_call.CHUNK + call.tokens)
    back.scan_back[(call.n_blocks, call.n_pieces - 1, call.batch)](
        *(dt, inputs.A, inputs.C, z, either(inputs.dt_bias, x), dy),
        *(either(v, x) for v in (inputs.begins, inputs.ends, d_last)),
        *(after, span, room, *(v.stride(0) for v in (dt, z, dy)), call.rows),
        *(call.length, call.per_piece, call.n_pieces),
        **{name: value for name, value in constants.items() if name != "SX"},
    )
    return call.carry(after, span, inputs.A, None if call.has_doc else d_last, back=True)


@torch.library.register_fake("braidlm::selective_scan_backward")
def _(x, dt, A, B, C, D, z, bias, begins, ends, first, softplus, each, dy, d_last):
    none = x.new_empty(0, dtype=torch.float32)
    optional = (none if v is None else v.new_empty(v.shape) for v in (D, z, bias, first))
    return (*(v.new_empty(v.shape) for v in (x, dt, A, B, C)), *optional)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    n = len(Inputs._fields)
    ctx.dt_softplus = inputs[n]
    ctx.save_for_backward(*inputs[:n], output[2])


def _backward(
    ctx: Any, dy: Tensor | None, d_last: Tensor | None, d_each: None
) -> tuple[Tensor | None, ...]:
    *saved, each = ctx.saved_tensors
    dy = torch.zeros_like(saved[0]) if dy is None else dy
    *found, d_D, dz, d_bias, d_first = torch.ops.braidlm.selective_scan_backward(
        *saved, ctx.dt_softplus, each, dy, d_last
    )
    optional = ((5, d_D), (6, dz), (7, d_bias), (10, d_first))
    d_D, dz, d_bias, d_first = (None if saved[i] is None else d for i, d in optional)
    return (*found, d_D, dz, d_bias, None, None, d_first, None, None, None, None)


torch.library.register_autograd("braidlm::selective_scan", _backward, setup_context=_setup)
