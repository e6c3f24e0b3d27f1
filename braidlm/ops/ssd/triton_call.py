"""One call of SSD's Triton kernels: how it is cut, what it needs room for, and its launches."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.launch import Launcher, described, known_as
from braidlm.ops.ssd import triton_gradients, triton_kernels

PROGRAMS = 256
"""Programs that fill a machine: rows are cut into pieces until there are as many."""
CHUNK = 64
"""Tokens of a chunk at most, in dtypes of two bytes; half of that in wider ones."""
LEAST = 8
"""Chunks that a piece has at least: finding what enters it costs a pass of its own."""
NEAR = 256
"""Chunks of a piece at most whose decays are looked at, to pass by what leaves nothing."""
HEADS = 16
"""Heads that `prepare` and `finish` treat together."""
SHARED = 16
"""Heads that `d_inputs` treats together at most: they share what it knows of B and C."""
LAUNCH = {
    "prepare": (4, 1),
    "forward": (4, 2),
    "accumulate": (4, 3),
    "carry": (4, 1),
    "d_inputs": (4, 3),
    "d_projections": (8, 3),
    "finish": (4, 1),
}
"""Warps, and tiles in advance, of each kernel."""
KERNELS = {
    name: Launcher(getattr(triton_kernels, name, None) or getattr(triton_gradients, name))
    for name in LAUNCH
}


class KernelCall:
    """One call: its sizes, its decays, and what every kernel is told of them."""

    def __init__(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        doc: Tensor | None,
        position: Tensor | None,
        dy: Tensor | None,
        chunk_size: int,
        n_slots: int,
    ) -> None:
        self.batch, self.length, self.n_heads, self.head_dim = x.shape
        self.n_groups, self.d_state = B.shape[2:]
        self.per_group = self.n_heads // self.n_groups
        self.is_narrow = x.dtype.itemsize == 2
        most = CHUNK if self.is_narrow else CHUNK // 2
        self.chunk = min(most, padded(min(chunk_size, self.length)))
        self.n_chunks = -(-self.length // self.chunk)
        wanted = -(-PROGRAMS // (self.batch * self.n_heads))
        self.per_piece = max(-(-self.n_chunks // wanted), min(LEAST, self.n_chunks))
        self.n_pieces = -(-self.n_chunks // self.per_piece)
        self.like, self.has_doc, self.has_D = x, doc is not None, D is not None
        inputs = described(x, dt, A, B, C, D, doc, position, dy)
        self.key = known_as((x.device.index, self.chunk, self.per_piece, inputs))
        self.tokens = self.numbers(n_slots, self.batch, self.n_heads, self.n_chunks * self.chunk)
        self._prepare(dt, A, doc, position)

    def _prepare(self, dt: Tensor, A: Tensor, doc: Tensor | None, position: Tensor | None) -> None:
        """Steps and log decays by head; where each token's document begins."""
        self.opens = self.like
        if doc is not None:
            self.opens = doc.new_empty(self.batch, self.tokens.shape[-1], dtype=torch.int32)
        like, dt = self.like, dense(dt)
        self.launch(
            "prepare",
            self.by_heads,
            *(dt, A, either(doc, like), either(position, like), self.tokens, self.opens),
            *(*dt.stride()[:2], self.length, self.n_heads),
        )

    def launch(
        self, name: str, grid: tuple[int, int, int], *args: Tensor | int, **constants: int
    ) -> None:
        """Run a kernel; `constants` are what it is compiled for beside what is true of the call."""
        launcher, (warps, stages) = KERNELS[name], LAUNCH[name]
        key = (self.key, warps, stages, *constants.values())
        if not launcher.again(key, grid, args):
            launcher.first(key, grid, args, self.constants(stages) | constants, warps)

    def constants(self, stages: int) -> dict[str, int]:
        """What kernels are compiled for. Wide dtypes leave no room for tiles in advance."""
        return {
            "P": self.head_dim,
            "BP": padded(self.head_dim),
            "N": self.d_state,
            "BN": padded(self.d_state),
            "Q": self.chunk,
            "HB": HEADS,
            "HAS_D": self.has_D,
            "HAS_DOC": self.has_doc,
            "WIDE": not self.is_narrow,
            "STAGES": stages if self.is_narrow else 1,
        }

    @property
    def by_heads(self) -> tuple[int, int, int]:
        """A program for every chunk, `HEADS` heads and row."""
        return self.n_chunks, -(-self.n_heads // HEADS), self.batch

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """T, H, R and the padded T."""
        return self.length, self.n_heads, self.per_group, self.n_chunks * self.chunk

    def by_chunk(self, n: int) -> Tensor:
        """Room for n numbers of every head and chunk."""
        return self.numbers(n, self.batch, self.n_chunks, self.n_heads)

    def numbers(self, *shape: int) -> Tensor:
        """Room in fp32."""
        return self.like.new_empty(shape, dtype=torch.float32)

    def states(self, rows: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Room for n states of every head in so many rows."""
        shape = rows, n, self.n_heads, padded(self.d_state), padded(self.head_dim)
        return self.like.new_empty(shape, dtype=dtype)

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


def padded(n: int) -> int:
    """The power of two that holds n; no product is narrower than 16."""
    return max(16, 1 << (n - 1).bit_length())


def dense(v: Tensor) -> Tensor:
    """Rows of kernels lie side by side; other strides are free."""
    return v if v.stride(-1) == 1 else v.contiguous()


def either(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor


def new_like(v: Tensor) -> Tensor:
    """Room for a tensor of this shape, dtype and device, side by side."""
    return torch.empty(v.shape, dtype=v.dtype, device=v.device)
