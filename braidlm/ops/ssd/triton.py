"""SSD on a GPU: the chunked form of README.md as Triton kernels with a backward pass of their own.

One program carries the state of one head over a piece of its row, in registers, so that nothing but
inputs and outputs touches the device's memory. A row is one piece, unless there are too few heads
to fill the machine: then what enters each piece is found first. The backward pass stores the states
at the edges of chunks, and their gradients, and then treats all chunks in parallel.

Layouts: x, y (B, T, H, P); dt and log decays (B, H, T) padded to whole chunks; states (B, n_chunks
or n_pieces, H, BN, BP), padded to powers of two; of both directions, forward and back, (2 B, ...).
Sums and states are fp32, products run in the dtype of x. Offsets by chunks are 64 bits wide.

Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 6.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from braidlm.ops.launch import described, known_as
from braidlm.ops.ssd import triton_call
from braidlm.ops.ssd.triton_call import KernelCall, dense, either, new_like
from braidlm.segments import Segments


def ssd_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """A few kernels each way; see `ssd` for the arguments. Packed calls pass no states."""
    doc = position = None
    if segments is not None:
        doc, position = segments.doc.contiguous(), segments.position.contiguous()
    B, C = B.to(x.dtype), C.to(x.dtype)
    tensors = (x, dt, A, B, C, D, doc, position, initial_state)
    form = torch.ops.braidlm.ssd if torch.compiler.is_compiling() else _Eager.apply
    y, state = form(*tensors, chunk_size, return_state)
    return y, state if return_state else None


torch.library.define(
    "braidlm::ssd",
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? doc, "
    "Tensor? position, Tensor? first, int chunk_size, bool return_state) -> (Tensor, Tensor)",
)
torch.library.define(
    "braidlm::ssd_backward",
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? doc, "
    "Tensor? position, Tensor? first, Tensor dy, Tensor? d_last, int chunk_size) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def ssd_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    doc: Tensor | None,
    position: Tensor | None,
    first: Tensor | None,
    chunk_size: int,
    return_state: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y; the last state if it is asked for; what enters each piece of a row, if there are several.

    It is the operator without its gradients.
    """
    x, B, C = dense(x), dense(B), dense(C)
    call = KernelCall(x, dt, A, B, C, D, doc, position, None, chunk_size, n_slots=3)
    entering = call.to_padded(first)
    if call.n_pieces > 1:
        entering, _ = _enter(call, x, x, B, B, entering, back=False)
    y, last = new_like(x), None
    if return_state:
        last = call.numbers(call.batch, call.n_heads, call.head_dim, call.d_state)
    call.launch(
        "forward",
        (call.n_heads, call.n_pieces, call.batch),
        *(x, call.tokens, B, C, either(D, x), call.opens, either(entering, x), y, either(last, x)),
        *(*x.stride()[:3], *B.stride()[:3], *C.stride()[:3], *call.lengths, call.per_piece),
        HAS_FIRST=entering is not None,
        HAS_LAST=return_state,
    )
    return y, last, entering if call.n_pieces > 1 else None


@torch.library.impl("braidlm::ssd", "default")
def _(*inputs):
    y, last, _ = ssd_forward(*inputs)
    return y, y.new_empty(0, dtype=torch.float32) if last is None else last


@torch.library.register_fake("braidlm::ssd")
def _(x, dt, A, B, C, D, doc, position, first, chunk_size, return_state):
    batch, _, n_heads, head_dim = x.shape
    shape = (batch, n_heads, head_dim, B.shape[3]) if return_state else (0,)
    return x.new_empty(x.shape), x.new_empty(shape, dtype=torch.float32)


def ssd_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    doc: Tensor | None,
    position: Tensor | None,
    first: Tensor | None,
    dy: Tensor,
    d_last: Tensor | None,
    chunk_size: int,
    into: tuple[Tensor, Tensor, Tensor] | None = None,
    entering: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs; those of x, B and C are written into `into` where it is given.

    What enters each piece is found again where the forward pass did not keep it.
    """
    x, B, C, dy = dense(x), dense(B), dense(C), dense(dy)
    n_slots = 7 if D is None else 8
    call = KernelCall(x, dt, A, B, C, D, doc, position, dy, chunk_size, n_slots)
    each, after = _each(call, x, dy, B, C, first, d_last, entering)
    if into is None:
        into = (new_like(x), new_like(B), new_like(C))
    else:
        call.key = known_as((call.key, described(*into)))
    dx, dB, dC = into
    d_dt = new_like(dt)
    heads = math.gcd(call.per_group, triton_call.SHARED)
    n_shared = call.n_heads // heads
    shares = call.by_chunk(3)
    d_scores = call.numbers(call.batch, call.n_chunks, n_shared, call.chunk, call.chunk)
    sizes = (*(s for v in (x, B, C, dy) for s in v.stride()[:3]), *call.lengths, call.n_chunks)
    inputs = (x, call.tokens, B, C)
    call.launch(
        "d_inputs",
        (call.n_chunks, n_shared, call.batch),
        *(*inputs, either(D, x), call.opens, dy, each, dx, d_scores, *dx.stride()[:2], *sizes),
        HB=heads,
    )
    call.launch(
        "d_projections",
        (call.n_chunks, call.n_groups, call.batch),
        *(*inputs, call.opens, dy, each, d_scores, shares, dB, dC),
        *(*dB.stride()[:2], *dC.stride()[:2], *sizes, call.per_group // heads),
    )
    tensors = (call.tokens, A, either(doc, x), d_dt, shares)
    call.launch("finish", call.by_heads, *tensors, call.length, call.n_heads)
    d_A, d_D = shares[1:].sum((1, 2)).unbind()
    d_D = None if D is None else d_D.to(D.dtype)
    d_first = None if first is None else call.from_padded(after).to(first.dtype)
    return dx, d_dt, d_A.to(A.dtype), dB, dC, d_D, d_first


@torch.library.impl("braidlm::ssd_backward", "default")
def _(*inputs):
    none = inputs[0].new_empty(0, dtype=torch.float32)
    return tuple(none if v is None else v for v in ssd_backward(*inputs))


@torch.library.register_fake("braidlm::ssd_backward")
def _(x, dt, A, B, C, D, doc, position, first, dy, d_last, chunk_size):
    none = x.new_empty(0, dtype=torch.float32)
    optional = (none if v is None else torch.empty_like(v) for v in (D, first))
    return (*(v.new_empty(v.shape) for v in (x, dt, A, B, C)), *optional)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any, entering: Tensor | None = None) -> None:
    *tensors, ctx.chunk_size, ctx.returns_state = inputs
    ctx.save_for_backward(*tensors, entering)


def _gradients(form: Any, ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, entering = ctx.saved_tensors
    d_end = d_last if ctx.returns_state else None
    more = {} if entering is None else {"entering": entering}
    *found, d_D, d_first = form(*tensors, dy, d_end, ctx.chunk_size, **more)
    d_D, d_first = (None if tensors[i] is None else d for i, d in ((5, d_D), (8, d_first)))
    return (*found, d_D, None, None, d_first, None, None)


def _backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(torch.ops.braidlm.ssd_backward, ctx, dy, d_last)


torch.library.register_autograd("braidlm::ssd", _backward, setup_context=_setup)


class _Eager(torch.autograd.Function):
    """The same past the dispatcher, which takes the host longer than a launch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        y, last, entering = ssd_forward(*inputs)
        _setup(ctx, inputs, None, entering)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _gradients(ssd_backward, ctx, dy, d_last)


def _each(
    call: KernelCall,
    x: Tensor,
    dy: Tensor,
    B: Tensor,
    C: Tensor,
    first: Tensor | None,
    d_last: Tensor | None,
    entering: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What stands before each chunk in both directions, in the dtype of x; and the gradient of
    what stood before the first."""
    tensors = (x, dy, B, C)
    each = call.states(2 * call.batch, call.n_chunks, x.dtype)
    if call.n_pieces == 1:
        given = call.to_padded(first, d_last)
        before, behind = (None, None) if given is None else given.split(call.batch)
        after, _ = _accumulate(call, *tensors, before, behind, each, first is not None)
        return each, after[call.batch :, 0] if first is not None else after
    if entering is None:
        entering, _ = _enter(call, *tensors, call.to_padded(first), back=False)
    arriving, after = _enter(call, *tensors, call.to_padded(d_last), back=True)
    _accumulate(call, *tensors, entering, arriving, each, has_last=False)
    return each, after


def _accumulate(
    call: KernelCall,
    x: Tensor,
    dy: Tensor,
    B: Tensor,
    C: Tensor,
    entering: Tensor | None,
    arriving: Tensor | None,
    each: Tensor | None,
    has_last: bool = True,
    back: bool = False,
) -> tuple[Tensor, Tensor]:
    """What stands after each piece, and what is left there of what entered it: in both directions
    if each is asked for, else in one."""
    rows, turn = 2 * call.batch, call.batch
    if each is None:
        rows, turn = call.batch, 0 if back else call.batch
    last = gain = x
    if has_last:
        last = call.states(rows, call.n_pieces)
        gain = call.numbers(rows, call.n_pieces, call.n_heads)
    states = (either(entering, x), either(arriving, x), either(each, x))
    call.launch(
        "accumulate",
        (call.n_heads, call.n_pieces, rows),
        *(x, dy, call.tokens, B, C, call.opens, *states, last, gain),
        *(s for v in (x, dy, B, C) for s in v.stride()[:3]),
        *(*call.lengths, call.n_chunks, call.per_piece, call.batch, turn),
        HAS_FIRST=entering is not None,
        HAS_EACH=each is not None,
        HAS_LAST=has_last,
        NEAR=triton_call.NEAR if each is None else 0,
        BACK=back,  # no kernel reads it: Triton compiles another one where `turn` is 0
    )
    return last, gain


def _enter(
    call: KernelCall,
    x: Tensor,
    dy: Tensor,
    B: Tensor,
    C: Tensor,
    first: Tensor | None,
    back: bool,
) -> tuple[Tensor, Tensor]:
    """What enters each piece in one direction, where `first` enters the row; what leaves it."""
    last, gain = _accumulate(call, x, dy, B, C, None, None, None, back=back)
    entering, after = torch.empty_like(last), torch.empty_like(last[:, 0])
    size, block = after[0, 0].numel(), 1024
    call.launch(
        "carry",
        (call.n_heads, call.batch, -(-size // block)),
        *(last, gain, either(first, last), entering, after),
        *(call.n_pieces, call.n_heads, size, 0 if back else call.batch),
        HAS_FIRST=first is not None,
        BACK=back,
        BLOCK=block,
    )
    return entering, after
