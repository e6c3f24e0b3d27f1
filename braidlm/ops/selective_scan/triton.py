"""The selective scan on a GPU: the recurrence of README.md, token by token, in registers.

One warp carries the states of a few channels over a piece of their row, so that nothing but inputs
and outputs touches the device's memory. A row is one piece, unless there are too few channels to
fill the machine: then what enters each piece is found first, from what every piece adds to zeros
and from the sum of its steps. Forward keeps the state before each chunk; back, a chunk is walked
from there again.

Layouts: x, dt, y (B, T, I); B, C (B, T, N), made fp32 once, since every program reads them; states
(n, I, N), fp32 like everything inside. Offsets by tokens and states are 64 bits wide.

Source: Gu and Dao, "Mamba" (arXiv 2312.00752), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.selective_scan import triton_kernels
from braidlm.segments import Segments

kernels: Any = triton_kernels  # no type checker knows what a launch takes

CHUNK = 64
"""Tokens from one kept state to the next."""
PROGRAMS = 1056
"""Warps that an H200 holds going back, 8 in each of 132 multiprocessors: rows are cut into pieces
while there are no more."""
LEAST = 4
"""Chunks that a piece has at least: finding what enters it costs a pass of its own."""
TOKENS = {"forward": 8, "back": 4}
"""Tokens whose inputs are loaded together; fewer where states have more than 16 columns."""
LANES, PER_LANE = 8, 2
"""Lanes that share the channels of a warp, and channels of each; other lanes share the columns."""


def scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
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
    tensors = (x, dt, A, B, C, D, begins, ends, first)
    keep = dispatch.needs_grad(x, dt, A, B, C, D, first)
    y, last, _ = torch.ops.braidlm.selective_scan(*tensors, n_docs, return_state, keep)
    return y, last if return_state else None


def _edges(doc: Tensor) -> tuple[Tensor, Tensor]:
    """What begins at each token, -2 for nothing, and what ends there; both (B, T) int32."""
    doc = doc.to(torch.int32)
    changes = doc[:, 1:] != doc[:, :-1]
    begins, ends = doc.clone(), doc.clone()
    begins[:, 1:].masked_fill_(~changes, -2)
    ends[:, :-1].masked_fill_(~changes, -2)
    return begins, ends


class _Call:
    """One call in one direction: its sizes, its pieces, and what every kernel is told of them."""

    def __init__(self, x: Tensor, B: Tensor, begins: Tensor | None, way: str) -> None:
        self.batch, self.length, self.width = x.shape
        self.d_state, self.like = B.shape[2], x
        self.has_doc = begins is not None
        self.columns = max(4, 1 << (self.d_state - 1).bit_length())
        self.tokens = max(1, min(TOKENS[way], CHUNK, 128 // self.columns))
        self.n_blocks = -(-self.width // (LANES * PER_LANE))
        self.n_chunks = -(-self.length // CHUNK)
        wanted = max(1, PROGRAMS // (self.batch * self.n_blocks))
        chunks = max(-(-self.n_chunks // wanted), min(LEAST, self.n_chunks))
        self.per_piece, self.n_pieces = chunks * CHUNK, -(-self.n_chunks // chunks)

    @property
    def options(self) -> dict[str, int]:
        """What kernels are compiled for."""
        return {
            "HAS_DOC": self.has_doc,
            "W": self.width,
            "N": self.d_state,
            "BN": self.columns,
            "K": PER_LANE,
            "L": LANES,
            "U": self.tokens,
            "num_warps": 1,
        }

    def numbers(self, *shape: int) -> Tensor:
        """Room in fp32."""
        return self.like.new_empty(shape, dtype=torch.float32)

    def states(self, *shape: int) -> Tensor:
        """Room for states."""
        return self.numbers(*shape, self.width, self.d_state)

    def carry(
        self, last: Tensor, span: Tensor, A: Tensor, first: Tensor | None, back: bool
    ) -> Tensor:
        """What enters each piece, from what each adds and how long it is."""
        into, block = torch.empty_like(last), 256
        kernels.carry[(-(-self.width * self.d_state // block), self.batch)](
            *(last, span, A, _or(first, last), into, self.n_pieces),
            BACK=back,
            HAS_FIRST=first is not None,
            W=self.width,
            N=self.d_state,
            BLOCK=block,
        )
        return into


torch.library.define(
    "braidlm::selective_scan",
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? begins, Tensor? ends, "
    "Tensor? first, SymInt n_docs, bool return_state, bool keep) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "braidlm::selective_scan_backward",
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? begins, Tensor? ends, "
    "Tensor? first, Tensor each, Tensor dy, Tensor? d_last) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("braidlm::selective_scan", "default")
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    begins: Tensor | None,
    ends: Tensor | None,
    first: Tensor | None,
    n_docs: int,
    return_state: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, dt, B, C, A = _dense(x), _dense(dt), _dense(B.float()), _dense(C.float()), A.contiguous()
    first = None if first is None else first.contiguous()
    call = _Call(x, B, begins, "forward")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    each = call.states(call.batch, call.n_chunks) if keep else call.numbers(0)
    last = call.states(n_docs) if return_state else call.numbers(0)
    initial = first if call.has_doc else None

    def scan(n: int, into: Tensor | None, after: Tensor, span: Tensor, **options: bool) -> None:
        kernels.scan[(call.n_blocks, n, call.batch)](
            *(x, dt, A, B, C, _or(D, x), _or(begins, x), _or(ends, x), _or(initial, x)),
            *(_or(into, x), y, each, after, span, *(v.stride(0) for v in (x, dt, B, C))),
            *(call.length, call.per_piece, call.n_pieces, call.n_chunks),
            **{f"S{name}": v.stride(1) for name, v in zip(_ROWS[:4], (x, dt, B, C), strict=True)},
            HAS_D=D is not None,
            HAS_INTO=into is not None,
            HAS_FIRST=initial is not None,
            Q=CHUNK,
            **options,
            **call.options,
        )

    into = None if call.has_doc else first
    if call.n_pieces > 1:
        after = call.states(call.batch, call.n_pieces)
        span = call.numbers(call.batch, call.n_pieces, call.width)
        scan(call.n_pieces - 1, None, after, span, HAS_Y=False, HAS_EACH=False, HAS_LAST=False)
        into = call.carry(after, span, A, into, back=False)
    scan(call.n_pieces, into, last, last, HAS_Y=True, HAS_EACH=keep, HAS_LAST=return_state)
    return y, last, each


@torch.library.register_fake("braidlm::selective_scan")
def _(x, dt, A, B, C, D, begins, ends, first, n_docs, return_state, keep):
    batch, length, width = x.shape
    states = (width, B.shape[2])
    last = (n_docs, *states) if return_state else (0,)
    each = (batch, -(-length // CHUNK), *states) if keep else (0,)
    return x.new_empty(x.shape), *(x.new_empty(s, dtype=torch.float32) for s in (last, each))


@torch.library.impl("braidlm::selective_scan_backward", "default")
def _scan_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    begins: Tensor | None,
    ends: Tensor | None,
    first: Tensor | None,
    each: Tensor,
    dy: Tensor,
    d_last: Tensor | None,
) -> tuple[Tensor, ...]:
    kinds = (A.dtype, B.dtype, C.dtype)
    x, dt, B, C, dy = (_dense(v) for v in (x, dt, B.float(), C.float(), dy))
    A = A.contiguous()
    first = None if first is None else first.contiguous()
    d_last = None if d_last is None else d_last.contiguous()
    call = _Call(x, B, begins, "back")
    into = None if call.has_doc else d_last
    if call.n_pieces > 1:
        into = _entering_back(call, dt, A, C, dy, begins, ends, d_last)
    dx, d_dt = (torch.empty(v.shape, dtype=v.dtype, device=v.device) for v in (x, dt))
    d_a = call.states(call.batch, call.n_pieces)
    dB, dC = (call.numbers(call.n_blocks, *v.shape) for v in (B, C))
    d_D = call.numbers(call.batch, call.n_pieces, call.width if D is not None else 0)
    d_first = call.numbers(0) if first is None else torch.empty_like(first)
    programs = call.n_blocks * call.n_pieces * call.batch
    tile = call.columns * LANES * PER_LANE
    room = call.numbers(programs, CHUNK // call.tokens, tile)
    rows = (x, dt, B, C, dy)
    kernels.gradients[(call.n_blocks, call.n_pieces, call.batch)](
        *(x, dt, A, B, C, _or(D, x), dy, _or(begins, x), _or(ends, x), _or(first, x), each),
        *(_or(d_last, x), _or(into, x), room, dx, d_dt, d_a, dB, dC, d_D, d_first),
        *(*(v.stride(0) for v in rows), call.length, call.per_piece, call.n_chunks),
        **{f"S{name}": v.stride(1) for name, v in zip(_ROWS, rows, strict=True)},
        HAS_D=D is not None,
        HAS_INTO=into is not None,
        HAS_LAST=d_last is not None,
        HAS_FIRST=first is not None,
        Q=CHUNK,
        **call.options,
    )
    d_D = d_D.sum((0, 1)) if D is None else d_D.sum((0, 1)).to(D.dtype)
    sums = (d_a.sum((0, 1)), dB.sum(0), dC.sum(0))
    return dx, d_dt, *(v.to(kind) for v, kind in zip(sums, kinds, strict=True)), d_D, d_first


_ROWS = ("X", "DT", "B", "C", "Y")
"""Tensors by token, as kernels call their strides."""


def _entering_back(
    call: _Call,
    dt: Tensor,
    A: Tensor,
    C: Tensor,
    dy: Tensor,
    begins: Tensor | None,
    ends: Tensor | None,
    d_last: Tensor | None,
) -> Tensor:
    """The gradient of the state after each piece, (B, n_pieces, I, N)."""
    after = call.states(call.batch, call.n_pieces)
    span = call.numbers(call.batch, call.n_pieces, call.width)
    kernels.scan_back[(call.n_blocks, call.n_pieces - 1, call.batch)](
        *(dt, A, C, dy, _or(begins, dy), _or(ends, dy), _or(d_last, dy), after, span),
        *(dt.stride(0), C.stride(0), dy.stride(0), call.length, call.per_piece, call.n_pieces),
        SDT=dt.stride(1),
        SC=C.stride(1),
        SY=dy.stride(1),
        HAS_LAST=d_last is not None,
        **call.options,
    )
    return call.carry(after, span, A, None if call.has_doc else d_last, back=True)


@torch.library.register_fake("braidlm::selective_scan_backward")
def _(x, dt, A, B, C, D, begins, ends, first, each, dy, d_last):
    none = x.new_empty(0, dtype=torch.float32)
    optional = (none if v is None else v.new_empty(v.shape) for v in (D, first))
    return (*(v.new_empty(v.shape) for v in (x, dt, A, B, C)), *optional)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:9], output[2])


def _backward(
    ctx: Any, dy: Tensor | None, d_last: Tensor | None, d_each: None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    dy = torch.zeros_like(saved[0]) if dy is None else dy
    *found, d_D, d_first = torch.ops.braidlm.selective_scan_backward(*saved, dy, d_last)
    d_D, d_first = (None if saved[i] is None else d for i, d in ((5, d_D), (8, d_first)))
    return (*found, d_D, None, None, d_first, None, None, None)


torch.library.register_autograd("braidlm::selective_scan", _backward, setup_context=_setup)


def _dense(v: Tensor) -> Tensor:
    """Channels, and columns, lie side by side; other strides are free."""
    return v if v.stride(-1) == 1 else v.contiguous()


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor
