"""SSD on a GPU: the chunked form of README.md as Triton kernels with a backward pass of their own.

One program carries the state of one head over a piece of its row, in registers, so that nothing but
inputs and outputs touches the device's memory. A row is one piece, unless there are too few heads
to fill the machine: then what enters each piece is found first. The backward pass stores the states
at the edges of chunks, and their gradients, and then treats all chunks in parallel.

Layouts: x, y (B, T, H, P); dt, and `cum`, the log decay since the chunk's start, (B, H, T) padded
to whole chunks; states (B, n_chunks or n_pieces, H, BN, BP), padded to powers of two. Sums and
states are fp32, products run in the dtype of x. Offsets by tokens are 64 bits wide.

Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.ops.ssd import triton_kernels
from braidlm.segments import Segments

kernels: Any = triton_kernels  # no type checker knows what a launch takes

PROGRAMS = 256
"""Programs that fill a machine: rows are cut into pieces until there are as many."""
LEAST = 8
"""Chunks that a piece has at least: finding what enters it costs a pass of its own."""
HEADS = 16
"""Heads that `prepare` and `finish` treat together, and `d_inputs` at most."""


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
    doc = None
    if segments is not None:
        dt = dt * segments.is_real[..., None]
        doc = segments.doc.to(torch.int32).contiguous()
    B, C = B.to(x.dtype), C.to(x.dtype)
    tensors = (x, dt, A, B, C, D, doc, initial_state)
    y, state = torch.ops.braidlm.ssd(*tensors, chunk_size, return_state)
    return y, state if return_state else None


class _Call:
    """One call: its sizes, its decays, and what every kernel is told of them."""

    def __init__(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, doc: Tensor | None, chunk_size: int
    ) -> None:
        self.batch, self.length, self.n_heads, self.head_dim = x.shape
        self.n_groups, self.d_state = B.shape[2:]
        self.per_group = self.n_heads // self.n_groups
        self.is_narrow = x.dtype.itemsize == 2
        most = 64 if self.is_narrow else 32
        self.chunk = min(most, _padded(min(chunk_size, self.length)))
        self.n_chunks = -(-self.length // self.chunk)
        wanted = -(-PROGRAMS // (self.batch * self.n_heads))
        self.per_piece = max(-(-self.n_chunks // wanted), min(LEAST, self.n_chunks))
        self.n_pieces = -(-self.n_chunks // self.per_piece)
        self.doc, self.like = doc, x
        self.steps, self.cum = self.by_token(), self.by_token()
        dt = _dense(dt)
        kernels.prepare[(self.n_chunks, -(-self.n_heads // HEADS), self.batch)](
            *(dt, A, self.steps, self.cum, *dt.stride()[:2], self.length, self.n_heads),
            *(self.chunk, HEADS),
        )

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """T, H, R and the padded T."""
        return self.length, self.n_heads, self.per_group, self.cum.shape[-1]

    @property
    def document(self) -> Tensor:
        """(B, T) int32; any tensor where rows are documents, since none is read."""
        return self.like if self.doc is None else self.doc

    def options(self, warps: int, stages: int) -> dict[str, int]:
        """What kernels are compiled for. Wide dtypes leave no room for tiles in advance."""
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

    def by_token(self) -> Tensor:
        """Room for a number of every head and token."""
        return self.numbers(self.batch, self.n_heads, self.n_chunks * self.chunk)

    def states(self, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Room for n states of every head."""
        padded = _padded(self.d_state), _padded(self.head_dim)
        return self.like.new_empty(self.batch, n, self.n_heads, *padded, dtype=dtype)

    def numbers(self, *shape: int) -> Tensor:
        """Room in fp32."""
        return self.like.new_empty(shape, dtype=torch.float32)

    def to_padded(self, state: Tensor | None) -> Tensor | None:
        """(B, H, P, N) -> (B, 1, H, BN, BP) in fp32."""
        if state is None:
            return None
        room = self.states(1)
        room.zero_()[:, 0, :, : self.d_state, : self.head_dim] = state.transpose(-1, -2)
        return room

    def from_padded(self, state: Tensor) -> Tensor:
        """(B, H, BN, BP) -> (B, H, P, N)."""
        return state[..., : self.d_state, : self.head_dim].transpose(-1, -2).contiguous()


torch.library.define(
    "braidlm::ssd",
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? doc, Tensor? first, "
    "int chunk_size, bool return_state) -> (Tensor, Tensor)",
)
torch.library.define(
    "braidlm::ssd_backward",
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? doc, Tensor? first, "
    "Tensor dy, Tensor? d_last, int chunk_size) "
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
    first: Tensor | None,
    chunk_size: int,
    return_state: bool,
) -> tuple[Tensor, Tensor]:
    x, B, C = _dense(x), _dense(B), _dense(C)
    call = _Call(x, dt, A, B, doc, chunk_size)
    entering = call.to_padded(first)
    if call.n_pieces > 1:
        entering, _ = _carry(call, *_accumulate(call, x, B, None, None), entering)
    y, last = torch.empty(x.shape, dtype=x.dtype, device=x.device), call.states(call.n_pieces)
    kernels.forward[(call.n_heads, call.n_pieces, call.batch)](
        *(x, call.steps, call.cum, B, C, _or(D, x), call.document, _or(entering, x), y, last),
        *(*x.stride()[:3], *B.stride()[:3], *C.stride()[:3], *call.lengths, call.per_piece),
        HAS_FIRST=entering is not None,
        HAS_D=D is not None,
        **call.options(warps=4, stages=2),
    )
    return y, call.from_padded(last[:, -1]) if return_state else last.new_empty(0)


@torch.library.register_fake("braidlm::ssd")
def _(x, dt, A, B, C, D, doc, first, chunk_size, return_state):
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
    first: Tensor | None,
    dy: Tensor,
    d_last: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, ...]:
    x, B, C, dy = _dense(x), _dense(B), _dense(C), _dense(dy)
    call = _Call(x, dt, A, B, doc, chunk_size)
    states, _ = _each(call, x, B, call.to_padded(first), back=False)
    d_states, d_first = _each(call, dy, C, call.to_padded(d_last), back=True)
    dB, dC = torch.empty_like(B), torch.empty_like(C)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    enter, direct, d_cum = call.by_token(), call.by_token(), call.by_token()
    gain = call.numbers(call.batch, call.n_chunks, call.n_heads)
    decays, rest = (x, call.steps, call.cum, B, C), (call.document, dy)
    sizes = (*(s for v in (x, B, C, dy) for s in v.stride()[:3]), *call.lengths, call.n_chunks)
    kernels.d_projections[(call.n_chunks, call.n_groups, call.batch)](
        *(*decays, *rest, states, d_states, enter, gain, dB, dC, *sizes),
        **call.options(warps=8, stages=3),
    )
    d_D = torch.empty_like(gain) if D is not None else call.numbers(0)
    heads = max(n for n in (1, 2, 4, 8, HEADS) if call.per_group % n == 0)
    kernels.d_inputs[(call.n_chunks, call.n_heads // heads, call.batch)](
        *(*decays, _or(D, x), *rest, d_states, enter, gain, dx, direct, d_cum, d_D, *sizes),
        HAS_D=D is not None,
        HB=heads,
        **call.options(warps=4, stages=2),
    )
    d_dt, d_A = call.numbers(*dt.shape), torch.empty_like(gain)
    kernels.finish[(call.n_chunks, -(-call.n_heads // HEADS), call.batch)](
        *(d_cum, direct, call.steps, A, d_dt, d_A, call.length, call.n_heads, call.chunk, HEADS)
    )
    d_begin = call.numbers(0) if first is None else call.from_padded(d_first).to(first.dtype)
    d_D = d_D.sum((0, 1)).to(D.dtype) if D is not None else d_D
    return dx, d_dt.to(dt.dtype), d_A.sum((0, 1)).to(A.dtype), dB, dC, d_D, d_begin


@torch.library.register_fake("braidlm::ssd_backward")
def _(x, dt, A, B, C, D, doc, first, dy, d_last, chunk_size):
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
    d_D, d_first = (None if tensors[i] is None else d for i, d in ((5, d_D), (7, d_first)))
    return (*found, d_D, None, d_first, None, None)


torch.library.register_autograd("braidlm::ssd", _backward, setup_context=_setup)


def _each(
    call: _Call, v: Tensor, K: Tensor, first: Tensor | None, back: bool
) -> tuple[Tensor, Tensor]:
    """What stands before each chunk, in the dtype of v, and after all of them."""
    each = call.states(call.n_chunks, v.dtype)
    if call.n_pieces == 1:
        return each, _accumulate(call, v, K, first, each, back)[0][:, 0]
    entering, after = _carry(call, *_accumulate(call, v, K, None, None, back), first, back)
    _accumulate(call, v, K, entering, each, back)
    return each, after


def _accumulate(
    call: _Call,
    v: Tensor,
    K: Tensor,
    entering: Tensor | None,
    each: Tensor | None,
    back: bool = False,
) -> tuple[Tensor, Tensor]:
    """What stands after each piece, and what is left there of what entered it."""
    last, gain = call.states(call.n_pieces), call.numbers(call.batch, call.n_pieces, call.n_heads)
    kernels.accumulate[(call.n_heads, call.n_pieces, call.batch)](
        *(v, call.steps, call.cum, K, call.document, _or(entering, v), _or(each, v), last, gain),
        *(*v.stride()[:3], *K.stride()[:3], *call.lengths, call.n_chunks, call.per_piece),
        BACK=back,
        HAS_FIRST=entering is not None,
        HAS_EACH=each is not None,
        **call.options(warps=4, stages=3),
    )
    return last, gain


def _carry(
    call: _Call, last: Tensor, gain: Tensor, first: Tensor | None, back: bool = False
) -> tuple[Tensor, Tensor]:
    """What enters each piece, from what each adds and keeps; and what leaves the last."""
    entering, after = torch.empty_like(last), torch.empty_like(last[:, 0])
    size, block = after[0, 0].numel(), 1024
    kernels.carry[(call.n_heads, call.batch, -(-size // block))](
        *(last, gain, _or(first, last), entering, after, call.n_pieces, call.n_heads, size),
        BACK=back,
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
