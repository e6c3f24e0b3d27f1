"""One call of the selective scan's kernels: its sizes, its pieces, what every kernel is told."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm.ops.selective_scan import triton_forward

kernels: Any = triton_forward  # no type checker knows what a launch takes

CHUNK = 32
"""Tokens from one kept state to the next, and tokens that are staged together."""
PROGRAMS = 1056
"""Warps that an H200 holds going back, 8 in each of 132 multiprocessors: rows are cut into pieces
while there are no more."""
LEAST = 4
"""Chunks that a piece has at least: finding what enters it costs a pass of its own."""
TOKENS = {"forward": 8, "back": 4}
"""Tokens whose numbers are loaded together; fewer where states have more than 16 columns."""
LANES, PER_LANE = 8, 2
"""Lanes that share the channels of a warp, and channels of each; other lanes share the columns.
Sums going back are written for 8."""
PAD = max(TOKENS.values())
"""Tokens around B and C: what is loaded too early, or too late, is there."""


class Inputs(NamedTuple):
    """The tensors of a call, as the operator is given them or, once prepared, as kernels are."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    begins: Tensor | None
    ends: Tensor | None
    first: Tensor | None

    def prepared(self, call: Call) -> Inputs:
        """Return the same for kernels: channels lie side by side, other strides are free."""
        z = None if self.z is None else dense(self.z)
        first = None if self.first is None else self.first.contiguous()
        return self._replace(
            x=dense(self.x),
            dt=dense(self.dt),
            A=self.A.contiguous(),
            B=call.padded(self.B),
            C=call.padded(self.C),
            z=z,
            first=first,
        )

    def around(self, is_softplus: bool) -> dict[str, bool]:
        """What stands around the recurrence, for a kernel."""
        has_bias = self.dt_bias is not None
        return {"HAS_Z": self.z is not None, "HAS_BIAS": has_bias, "SOFTPLUS": is_softplus}


class Call:
    """One call in one direction."""

    def __init__(self, inputs: Inputs, way: str) -> None:
        x = inputs.x
        self.batch, self.length, self.width = x.shape
        self.d_state, self.like = inputs.B.shape[2], x
        self.has_doc = inputs.begins is not None
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
            "Q": CHUNK,
            "U": self.tokens,
            "num_warps": 1,
        }

    @property
    def whole(self) -> int:
        """Tokens of a row in whole chunks."""
        return self.n_chunks * CHUNK

    @property
    def rows(self) -> int:
        """Tokens of what `padded` gives, of each row of the batch."""
        return self.whole + 2 * PAD

    def padded(self, v: Tensor) -> Tensor:
        """B or C as every program reads it: fp32, with all columns and tokens around it; the view
        begins at the first token, and the next row of the batch is `rows` tokens away."""
        shape = (self.batch, self.rows, self.columns)
        room = self.like.new_zeros(shape, dtype=torch.float32)
        room[:, PAD : PAD + self.length, : self.d_state].copy_(v)
        return room[:, PAD:]

    def numbers(self, *shape: int) -> Tensor:
        """Room in fp32."""
        return self.like.new_empty(shape, dtype=torch.float32)

    def states(self, *shape: int) -> Tensor:
        """Room for states."""
        return self.numbers(*shape, self.width, self.d_state)

    def after(self) -> Tensor:
        """Room for a state of each piece."""
        return self.states(self.batch, self.n_pieces)

    def span(self) -> Tensor:
        """Room for the sum of the steps of each piece."""
        return self.numbers(self.batch, self.n_pieces, self.width)

    def room(self, n_pieces: int, tokens: int) -> Tensor:
        """Room of each program for so many tokens of its channels."""
        return self.numbers(self.batch * n_pieces * self.n_blocks, tokens * LANES * PER_LANE)

    def carry(
        self, last: Tensor, span: Tensor, A: Tensor, first: Tensor | None, back: bool
    ) -> Tensor:
        """What enters each piece, from what each adds and how long it is."""
        into, block = torch.empty_like(last), 256
        kernels.carry[(-(-self.width * self.d_state // block), self.batch)](
            *(last, span, A, either(first, last), into, self.n_pieces),
            BACK=back,
            HAS_FIRST=first is not None,
            W=self.width,
            N=self.d_state,
            BLOCK=block,
        )
        return into


def dense(v: Tensor) -> Tensor:
    """Channels lie side by side; other strides are free."""
    return v if v.stride(-1) == 1 else v.contiguous()


def either(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor
