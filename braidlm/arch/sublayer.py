"""One sublayer of a model, resolved: its branches, its wiring, and whose weights it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from braidlm.arch.fusion import Fusion
from braidlm.arch.mixers import MixerConfig
from braidlm.arch.mixers.base import matmul_flops
from braidlm.arch.wiring import Wiring
from braidlm.errors import InputError


@dataclass(frozen=True)
class Sublayer:
    """One residual sublayer: norm, one mixer or several in parallel, add."""

    index: int
    symbol: str
    letters: tuple[str, ...]
    branches: tuple[MixerConfig, ...]
    fusion: Fusion | None
    wiring: Wiring
    """How the letter is wired; a sublayer in braces is wired plainly."""
    owner: int
    """Index of the sublayer whose weights this one has: the first use of a shared letter."""

    @property
    def is_parallel(self) -> bool:
        """Whether several branches read the same input."""
        return self.fusion is not None

    @property
    def owns_weights(self) -> bool:
        """Whether norm, branches and output projection are counted here."""
        return self.owner == self.index

    def input_width(self, d_model: int) -> int:
        """Channels of what the branches read."""
        return 2 * d_model if self.wiring.input == "hidden+embedding" else d_model

    def norm_width(self, d_model: int) -> int:
        """Channels of the norm: of the input, or of the output under a post-norm."""
        return d_model if self.wiring.norm_position == "post" else self.input_width(d_model)

    @property
    def lora_widths(self) -> tuple[int, ...]:
        """Outputs of each matrix that every use adapts by its own low-rank product."""
        return self.branches[0].lora_widths if self.wiring.lora_rank else ()

    def use_matrices(self, d_model: int) -> list[tuple[int, int]]:
        """Shapes (in, out) of the matrices that each use has for itself."""
        rank, width = self.wiring.lora_rank, self.input_width(d_model)
        adapters = [shape for n in self.lora_widths for shape in ((width, rank), (rank, n))]
        return [*adapters, *([(d_model, d_model)] if self.wiring.use_projection else [])]

    def use_params(self, d_model: int) -> int:
        """Parameters that each use has for itself."""
        return sum(a * b for a, b in self.use_matrices(d_model))

    def use_flops(self, d_model: int, n_tokens: int) -> int:
        """FLOPs of these matrices."""
        return matmul_flops(n_tokens, *self.use_matrices(d_model))


def check(sublayers: Sequence[Sublayer]) -> None:
    """Refuse a fusion or a wiring that cannot be.

    Raises:
        InputError: naming the sublayer, the field and what is allowed.
    """
    for s in sublayers:
        try:
            if s.fusion is not None:
                s.fusion.check(s.branches)
            _check_use(s)
            _check_input(s, sublayers[s.index - 1] if s.index else None)
            if s.wiring.output == "next_input" and s is sublayers[-1]:
                raise InputError("output = 'next_input': no sublayer follows that could read it")
        except InputError as error:
            raise InputError(f"sublayer {s.index} ({s.symbol}): {error}") from None


def _check_use(s: Sublayer) -> None:
    rank = s.wiring.lora_rank
    for name, value in (("lora_rank", rank), ("use_projection", s.wiring.use_projection)):
        if value and not s.wiring.shared:
            raise InputError(f"{name} = {str(value).lower()}: belongs only to shared = true")
    if rank and (s.is_parallel or not s.branches[0].lora_widths):
        raise InputError(f"lora_rank = {rank}: only a sublayer of attention or mlp can be adapted")


def _check_input(s: Sublayer, before: Sublayer | None) -> None:
    source = s.wiring.input
    if source == "handed" and (before is None or before.wiring.output != "next_input"):
        raise InputError("input = 'handed': the sublayer before must have output = 'next_input'")
    if source != "hidden+embedding":
        return
    if s.branches[0].has_own_output:
        raise InputError(
            f"input = '{source}': a mixer that projects for itself gives what it reads, "
            "2 d_model wide; use input = 'hidden'"
        )
    if s.fusion is not None and s.fusion.gate is not None:
        raise InputError(f"input = '{source}': a gate reads d_model channels; use another combine")
