"""The gated delta rule on a GPU: the chunks of README.md as Triton kernels.

`prepare` finds, for all chunks at once, what depends on no state: decays, the products of queries
with keys, and X = A (I + Diag(beta) A)^-1, with which a chunk's system is solved from either side.
`forward` carries the state of one head and one block of value channels through a document, in
registers: only inputs, outputs and what `prepare` found touch the device's memory. Documents are
cut into chunks of their own, from their first token, so that no chunk holds two of them.

Layouts: q, k (B, T, G, D); v, y (B, T, H, V); states (n_docs, H, D, V); numbers of each token
(n, H, Q) and matrices of each chunk (n, H, Q, Q) for n chunks of Q tokens, document by document.
Sums and states are fp32, products run in the dtype of v. Offsets by tokens are 64 bits wide.

Source: Yang et al., "Gated Delta Networks" (arXiv 2412.06464), section 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.ops.gated_delta import triton_kernels
from braidlm.segments import Segments

kernels: Any = triton_kernels  # no type checker knows what a launch takes


def gated_delta_triton(
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
    """A few kernels; see `gated_delta` for the arguments. One decay per head."""
    docs = None
    if segments is not None:
        ends = segments.starts + segments.lengths
        docs = torch.stack((segments.rows, segments.starts, ends), dim=1)
    tensors = (q.to(v.dtype), k.to(v.dtype), v, g, beta, docs, initial_state)
    y, state = torch.ops.braidlm.gated_delta(*tensors, scale, chunk_size, return_state)
    return y, state if return_state else None


class _Call:
    """One call: its sizes, where its chunks lie, and what depends on no state."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        docs: Tensor | None,
        scale: float,
        chunk_size: int,
        back: bool,
    ) -> None:
        self.batch, self.length, self.n_heads, self.v_head_dim = v.shape
        self.n_groups, self.head_dim = k.shape[2:]
        self.is_narrow = v.dtype.itemsize == 2
        most = 64 if self.is_narrow else 32
        self.chunk = min(most, _padded(min(chunk_size, self.length)))
        self.block = min(64 if self.is_narrow else 16, _padded(self.v_head_dim))
        self.per_row = -(-self.length // self.chunk)
        self.n_docs, self.n_chunks = self.batch, self.batch * self.per_row
        self.scale, self.docs, self.spans = scale, v, v  # any tensors: rows are documents
        self.is_packed = docs is not None
        if docs is not None:
            self.n_docs = len(docs)
            self.n_chunks = self.batch * self.length // self.chunk + self.n_docs  # at least
            self.docs, self.spans = self._tables(docs)
        shape = (self.n_chunks, self.n_heads, self.chunk)
        self.numbers = torch.empty((4, *shape), dtype=torch.float32, device=v.device)
        self.decays = self.numbers[2:]
        self.solve, self.score = torch.empty(
            (2, *shape, self.chunk), dtype=v.dtype, device=v.device
        )
        g, beta = _dense(g), _dense(beta)
        kernels.prepare[(self.n_chunks, self.n_heads)](
            *(q, k, g, beta, self.spans, *self.numbers, self.solve, self.score),
            *(*q.stride()[:3], *k.stride()[:3], *g.stride()[:2], *beta.stride()[:2]),
            *self.sizes,
            BACK=back,
            HAS_DOC=self.is_packed,
            Q=self.chunk,
            D=self.head_dim,
            BD=_padded(self.head_dim),
            num_warps=4,
        )

    def _tables(self, docs: Tensor) -> tuple[Tensor, Tensor]:
        """Row, start, end and first chunk of documents; row, start and end of chunks, int32."""
        rows, starts, ends = docs.unbind(1)
        counts = (ends - starts + self.chunk - 1) // self.chunk
        after = counts.cumsum(0)
        chunk = torch.arange(self.n_chunks, device=docs.device)
        doc = torch.searchsorted(after, chunk, right=True)
        is_real, doc = doc < self.n_docs, doc.clamp_max(self.n_docs - 1)
        begin = starts[doc] + (chunk - (after - counts)[doc]) * self.chunk
        end = torch.where(is_real, ends[doc], begin)
        spans = torch.stack((rows[doc], begin, end), dim=1)
        docs = torch.stack((rows, starts, ends, after - counts), dim=1)
        return docs.to(torch.int32), spans.to(torch.int32)

    @property
    def sizes(self) -> tuple[int, int, int, int, float]:
        """T, H, R, chunks of a row, and the factor on the queries."""
        per_group = self.n_heads // self.n_groups
        return self.length, self.n_heads, per_group, self.per_row, self.scale

    @property
    def walks(self) -> tuple[int, int, int]:
        """One program for each block of values, head and document."""
        return -(-self.v_head_dim // self.block), self.n_heads, self.n_docs

    def options(self, warps: int, stages: int, is_full: bool = False) -> dict[str, int | None]:
        """What kernels are compiled for. Wide dtypes leave no room for tiles in advance.

        Args:
            warps: of one program.
            stages: tiles on their way at once.
            is_full: whether only what enters products may be loaded in advance: there is no room
                for more in shared memory where two programs are to share it.
        """
        stages = stages if self.is_narrow else 1
        return {
            "HAS_DOC": self.is_packed,
            "Q": self.chunk,
            "D": self.head_dim,
            "BD": _padded(self.head_dim),
            "V": self.v_head_dim,
            "BV": self.block,
            "STAGES": None if is_full else stages,
            "num_stages": stages,
            "num_warps": warps,
        }


torch.library.define(
    "braidlm::gated_delta",
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? docs, Tensor? first, "
    "float scale, int chunk_size, bool return_state) -> (Tensor, Tensor)",
)
torch.library.define(
    "braidlm::gated_delta_backward",
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? docs, Tensor? first, "
    "Tensor dy, Tensor? d_last, float scale, int chunk_size) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("braidlm::gated_delta", "default")
def _gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    docs: Tensor | None,
    first: Tensor | None,
    scale: float,
    chunk_size: int,
    return_state: bool,
) -> tuple[Tensor, Tensor]:
    n_docs = v.shape[0] if docs is None else docs.shape[0]
    shape = (n_docs, v.shape[2], k.shape[3], v.shape[3]) if return_state else (0,)
    last = torch.empty(shape, dtype=torch.float32, device=v.device)
    y = _room(v, docs)
    if n_docs == 0:
        return y, last
    q, k, v = _dense(q), _dense(k), _dense(v)
    call = _Call(q, k, v, g, beta, docs, scale, chunk_size, back=False)
    _walk(call, q, k, v, first, y=y, last=last if return_state else None)
    return y, last


def _walk(
    call: _Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: Tensor | None,
    y: Tensor | None = None,
    last: Tensor | None = None,
    states: Tensor | None = None,
    missing: Tensor | None = None,
) -> None:
    """From the first chunk of each document to its last: y, or again the states on the way."""
    kernels.forward[call.walks](
        *(q, k, v, call.docs, *call.decays, call.solve, call.score),
        *(_or(None if first is None else first.contiguous(), v), _or(y, v), _or(last, v)),
        *(_or(states, v), _or(missing, v)),
        *(s for x in (q, k, v) for s in x.stride()[:3]),
        *call.sizes,
        AGAIN=y is None,
        HAS_FIRST=first is not None,
        HAS_LAST=last is not None,
        **call.options(warps=4 if call.is_narrow else 8, stages=2),
    )


@torch.library.impl("braidlm::gated_delta_backward", "default")
def _gated_delta_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    docs: Tensor | None,
    first: Tensor | None,
    dy: Tensor,
    d_last: Tensor | None,
    scale: float,
    chunk_size: int,
) -> tuple[Tensor, ...]:
    by_head = (*v.shape[:3], k.shape[3])
    dq, dk = (_room(v, docs, by_head) for _ in range(2))
    dv, dg, d_beta = _room(v, docs), *(_room(v, docs, g.shape, torch.float32) for _ in range(2))
    d_first = v.new_empty(0) if first is None else torch.empty_like(first, dtype=torch.float32)
    if docs is None or docs.shape[0]:
        q, k, v, g, dy = (_dense(x) for x in (q, k, v, g, dy))
        call = _Call(q, k, v, g, beta, docs, scale, chunk_size, back=True)
        shape = (call.n_chunks, call.n_heads, call.v_head_dim)
        states, d_states = v.new_empty((2, *shape, call.head_dim))
        missing = v.new_empty((*shape, call.chunk))
        _walk(call, q, k, v, first, states=states, missing=missing)
        strides = [x.stride()[:3] for x in (q, k, dy)]
        kernels.backward[call.walks](
            *(q, k, dy, call.docs, *call.decays, call.solve, call.score),
            *(_or(None if d_last is None else d_last.contiguous(), v), dv, d_states, d_first),
            *(*(s for one in strides for s in one), *call.sizes),
            HAS_LAST=d_last is not None,
            HAS_FIRST=first is not None,
            **call.options(warps=4 if call.is_narrow else 8, stages=2, is_full=True),
        )
        kernels.gradients[(call.n_chunks, call.n_heads)](
            *(q, k, g, dy, dv, call.spans, *call.numbers, states, d_states),
            *(missing, dq, dk, dg, d_beta, *strides[0], *strides[1], *g.stride()[:2]),
            *(*strides[2], *call.sizes),
            **call.options(warps=8, stages=2),
        )
    if k.shape[2] < v.shape[2]:
        dq, dk = (x.unflatten(2, (k.shape[2], -1)).sum(3) for x in (dq, dk))
    d_first = d_first if first is None else d_first.to(first.dtype)
    return dq, dk, dv, dg.to(g.dtype), d_beta.to(beta.dtype), d_first


@torch.library.register_fake("braidlm::gated_delta_backward")
def _(q, k, v, g, beta, docs, first, dy, d_last, scale, chunk_size):
    d_first = v.new_empty(0) if first is None else torch.empty_like(first)
    return (*(x.new_empty(x.shape) for x in (q, k, v, g, beta)), d_first)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.chunk_size, ctx.returns_state = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    d_end = d_last if ctx.returns_state else None
    *found, d_first = torch.ops.braidlm.gated_delta_backward(
        *tensors, dy, d_end, ctx.scale, ctx.chunk_size
    )
    return (*found, None, None if tensors[6] is None else d_first, None, None, None)


torch.library.register_autograd("braidlm::gated_delta", _backward, setup_context=_setup)


@torch.library.register_fake("braidlm::gated_delta")
def _(q, k, v, g, beta, docs, first, scale, chunk_size, return_state):
    n_docs = v.shape[0] if docs is None else docs.shape[0]
    shape = (n_docs, v.shape[2], k.shape[3], v.shape[3]) if return_state else (0,)
    return v.new_empty(v.shape), v.new_empty(shape, dtype=torch.float32)


def _room(
    like: Tensor,
    docs: Tensor | None,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Room for something of every token; zeros if some tokens may belong to no document."""
    make = torch.empty if docs is None else torch.zeros
    return make(
        like.shape if shape is None else shape, dtype=dtype or like.dtype, device=like.device
    )


def _padded(n: int) -> int:
    """The power of two that holds n; no product is narrower than 16."""
    return max(16, 1 << (n - 1).bit_length())


def _dense(v: Tensor) -> Tensor:
    """Rows of kernels lie side by side; other strides are free."""
    return v if v.stride(-1) == 1 else v.contiguous()


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor
