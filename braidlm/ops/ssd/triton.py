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

from braidlm.ops.ssd import triton_gradients, triton_kernels
from braidlm.segments import Segments

kernels: Any = triton_kernels  # no type checker knows what a launch takes
gradients: Any = triton_gradients

PROGRAMS = 256
"""Programs that fill a machine: rows are cut into pieces until there are as many."""
CHUNK = 64
"""Tokens of a chunk at most, in dtypes of two bytes; half of that in wider ones."""
LEAST = 8
"""Chunks that a piece has at least: finding what enters it costs a pass of its own."""
HEADS = 16
"""Heads that `prepare` and `finish` treat together."""
SHARED = 16
"""Heads that `d_inputs` treats together at most: they share what it knows of B and C."""
LAUNCH = {"forward": (4, 2), "accumulate": (4, 3), "d_inputs": (4, 2), "d_projections": (8, 3)}
"""Warps, and tiles in advance, of each kernel."""


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
    y, state = torch.ops.braidlm.ssd(*tensors, chunk_size, return_state)
    return y, state if return_state else None


class _Call:
    """One call: its sizes, its decays, and what every kernel is told of them."""

    def __init__(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        doc: Tensor | None,
        position: Tensor | None,
        chunk_size: int,
    ) -> None:
        self.batch, self.length, self.n_heads, self.head_dim = x.shape
        self.n_groups, self.d_state = B.shape[2:]
        self.per_group = self.n_heads // self.n_groups
        self.is_narrow = x.dtype.itemsize == 2
        most = CHUNK if self.is_narrow else CHUNK // 2
        self.chunk = min(most, _padded(min(chunk_size, self.length)))
        self.n_chunks = -(-self.length // self.chunk)
        wanted = -(-PROGRAMS // (self.batch * self.n_heads))
        self.per_piece = max(-(-self.n_chunks // wanted), min(LEAST, self.n_chunks))
        self.n_pieces = -(-self.n_chunks // self.per_piece)
        self.doc, self.like = doc, x
        self.steps, self.cum, self.key = self.by_token(3)
        self.opens = x
        if doc is not None:
            self.opens = doc.new_empty(self.batch, self.cum.shape[-1], dtype=torch.int32)
        dt = _dense(dt)
        kernels.prepare[self.by_heads](
            *(dt, A, _or(doc, x), _or(position, x), self.steps, self.cum, self.key, self.opens),
            *(*dt.stride()[:2], self.length, self.n_heads),
            HAS_DOC=doc is not None,
            Q=self.chunk,
            HB=HEADS,
        )

    @property
    def by_heads(self) -> tuple[int, int, int]:
        """A program for every chunk, `HEADS` heads and row."""
        return self.n_chunks, -(-self.n_heads // HEADS), self.batch

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """T, H, R and the padded T."""
        return self.length, self.n_heads, self.per_group, self.cum.shape[-1]

    def options(self, kernel: str) -> dict[str, int]:
        """What it is compiled for. Wide dtypes leave no room for tiles in advance."""
        warps, stages = LAUNCH[kernel]
        return {
            "P": self.head_dim,
            "BP": _padded(self.head_dim),
            "N": self.d_state,
            "BN": _padded(self.d_state),
            "Q": self.chunk,
            "HAS_DOC": self.doc is not None,
            "STAGES": stages if self.is_narrow else 1,
            "num_warps": warps,
        }

    def by_token(self, n: int) -> Tensor:
        """Room for n numbers of every head and token."""
        return self.numbers(n, self.batch, self.n_heads, self.n_chunks * self.chunk)

    def states(self, rows: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Room for n states of every head in so many rows."""
        padded = _padded(self.d_state), _padded(self.head_dim)
        return self.like.new_empty(rows, n, self.n_heads, *padded, dtype=dtype)

    def numbers(self, *shape: int) -> Tensor:
        """Room in fp32."""
        return self.like.new_empty(shape, dtype=torch.float32)

    def to_padded(self, *states: Tensor | None) -> Tensor | None:
        """(B, H, P, N) each -> (so many B, 1, H, BN, BP) in fp32; None if there is none."""
        if all(state is None for state in states):
            return None
        room = self.states(len(states) * self.batch, 1).zero_()
        for rows, state in zip(room.split(self.batch), states, strict=True):
            if state is not None:
                rows[:, 0, :, : self.d_state, : self.head_dim] = state.transpose(-1, -2)
        return room

    def from_padded(self, state: Tensor) -> Tensor:
        """(B, H, BN, BP) -> (B, H, P, N)."""
        return state[..., : self.d_state, : self.head_dim].transpose(-1, -2).contiguous()


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


@torch.library.impl("braidlm::ssd", "default")
def _ssd(
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
) -> tuple[Tensor, Tensor]:
    x, B, C = _dense(x), _dense(B), _dense(C)
    call = _Call(x, dt, A, B, doc, position, chunk_size)
    entering = call.to_padded(first)
    if call.n_pieces > 1:
        entering, _ = _carry(call, *_accumulate(call, x, x, B, B, None, None), entering)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    last = call.states(call.batch, call.n_pieces)
    kernels.forward[(call.n_heads, call.n_pieces, call.batch)](
        *(x, call.cum, call.key, B, C, _or(D, x), call.opens, _or(entering, x), y, last),
        *(*x.stride()[:3], *B.stride()[:3], *C.stride()[:3], *call.lengths, call.per_piece),
        HAS_FIRST=entering is not None,
        HAS_D=D is not None,
        **call.options("forward"),
    )
    return y, call.from_padded(last[:, -1]) if return_state else last.new_empty(0)


@torch.library.register_fake("braidlm::ssd")
def _(x, dt, A, B, C, D, doc, position, first, chunk_size, return_state):
    batch, _, n_heads, head_dim = x.shape
    shape = (batch, n_heads, head_dim, B.shape[3]) if return_state else (0,)
    return x.new_empty(x.shape), x.new_empty(shape, dtype=torch.float32)


@torch.library.impl("braidlm::ssd_backward", "default")
def _ssd_backward(
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
) -> tuple[Tensor, ...]:
    x, B, C, dy = _dense(x), _dense(B), _dense(C), _dense(dy)
    call = _Call(x, dt, A, B, doc, position, chunk_size)
    each, after = _each(call, x, dy, B, C, call.to_padded(first, d_last))
    states, d_states = each.split(call.batch)
    dB, dC = torch.empty_like(B), torch.empty_like(C)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    parts, enter = call.by_token(3 if D is None else 4), call.by_token(1)
    heads = math.gcd(call.per_group, SHARED)
    shared = call.n_heads // heads
    d_scores = call.numbers(call.batch, call.n_chunks, shared, call.chunk, call.chunk)
    sizes = (*(s for v in (x, B, C, dy) for s in v.stride()[:3]), *call.lengths, call.n_chunks)
    gradients.d_inputs[(call.n_chunks, shared, call.batch)](
        *(x, call.steps, call.cum, B, C, _or(D, x), call.opens, dy, d_states),
        *(dx, parts, d_scores, *sizes),
        HAS_D=D is not None,
        HB=heads,
        **call.options("d_inputs"),
    )
    gain = call.numbers(call.batch, call.n_chunks, call.n_heads)
    gradients.d_projections[(call.n_chunks, call.n_groups, call.batch)](
        *(x, call.cum, call.key, B, C, call.opens, dy, states, d_states, d_scores),
        *(enter, gain, dB, dC, *sizes, call.per_group // heads),
        **call.options("d_projections"),
    )
    d_dt, shares = call.numbers(*dt.shape), call.numbers(2, *gain.shape)
    gradients.finish[call.by_heads](
        *(parts, enter, gain, call.steps, A, _or(doc, x), d_dt, *shares),
        *(call.length, call.n_heads),
        HAS_D=D is not None,
        HAS_DOC=doc is not None,
        Q=call.chunk,
        HB=HEADS,
    )
    d_A, d_D = shares.sum((1, 2))
    d_D = call.numbers(0) if D is None else d_D.to(D.dtype)
    d_first = call.numbers(0)
    if first is not None:
        d_first = call.from_padded(after[call.batch :]).to(first.dtype)
    return dx, d_dt.to(dt.dtype), d_A.to(A.dtype), dB, dC, d_D, d_first


@torch.library.register_fake("braidlm::ssd_backward")
def _(x, dt, A, B, C, D, doc, position, first, dy, d_last, chunk_size):
    none = x.new_empty(0, dtype=torch.float32)
    optional = (none if v is None else torch.empty_like(v) for v in (D, first))
    return (*(v.new_empty(v.shape) for v in (x, dt, A, B, C)), *optional)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.chunk_size, ctx.returns_state = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    d_end = d_last if ctx.returns_state else None
    *found, d_D, d_first = torch.ops.braidlm.ssd_backward(*tensors, dy, d_end, ctx.chunk_size)
    d_D, d_first = (None if tensors[i] is None else d for i, d in ((5, d_D), (8, d_first)))
    return (*found, d_D, None, None, d_first, None, None)


torch.library.register_autograd("braidlm::ssd", _backward, setup_context=_setup)


def _each(
    call: _Call, x: Tensor, dy: Tensor, B: Tensor, C: Tensor, first: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What stands before each chunk in both directions, in the dtype of x, and after all."""
    each = call.states(2 * call.batch, call.n_chunks, x.dtype)
    tensors = (x, dy, B, C)
    if call.n_pieces == 1:
        return each, _accumulate(call, *tensors, first, each)[0][:, 0]
    entering, after = _carry(call, *_accumulate(call, *tensors, None, None, both=True), first)
    _accumulate(call, *tensors, entering, each)
    return each, after


def _accumulate(
    call: _Call,
    x: Tensor,
    dy: Tensor,
    B: Tensor,
    C: Tensor,
    entering: Tensor | None,
    each: Tensor | None,
    both: bool = False,
) -> tuple[Tensor, Tensor]:
    """What stands after each piece, and what is left there of what entered it; back too if `both`
    or if each is asked for."""
    rows = call.batch * (1 + (both or each is not None))
    last, gain = call.states(rows, call.n_pieces), call.numbers(rows, call.n_pieces, call.n_heads)
    kernels.accumulate[(call.n_heads, call.n_pieces, rows)](
        *(x, dy, call.cum, call.key, B, C, call.opens, _or(entering, x), _or(each, x), last, gain),
        *(s for v in (x, dy, B, C) for s in v.stride()[:3]),
        *(*call.lengths, call.n_chunks, call.per_piece, call.batch),
        HAS_FIRST=entering is not None,
        HAS_EACH=each is not None,
        **call.options("accumulate"),
    )
    return last, gain


def _carry(call: _Call, last: Tensor, gain: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """What enters each piece, from what each adds and keeps; and what leaves the last."""
    entering, after = torch.empty_like(last), torch.empty_like(last[:, 0])
    size, block = after[0, 0].numel(), 1024
    kernels.carry[(call.n_heads, len(last), -(-size // block))](
        *(last, gain, _or(first, last), entering, after, call.n_pieces, call.n_heads, size),
        call.batch,
        HAS_FIRST=first is not None,
        BLOCK=block,
    )
    return entering, after


def _padded(n: int) -> int:
    """The power of two that holds n; no product is narrower than 16."""
    return max(16, 1 << (n - 1).bit_length())


def _dense(v: Tensor) -> Tensor:
    """Rows of kernels lie side by side; other strides are free."""
    return v if v.stride(-1) == 1 else v.contiguous()


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor
