"""Declaration of Kimi Delta Attention."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.mixers.base import matmul_flops
from braidlm.arch.mixers.delta import DeltaConfig

LEAF = 8
"""Tokens below which the chunked form takes a decay per channel pair by pair."""


class KDAConfig(DeltaConfig):
    """Kimi Delta Attention: the delta rule with one decay per key channel, low-rank gates.

    Source: Kimi Team 2025 (arXiv 2510.26692).
    """

    kind: Literal["kda"] = "kda"
    """The mixer's name."""
    decay_rank: int = Field(gt=0)
    """Rank of the projection to the decays. Default: v_head_dim."""
    gate_rank: int = Field(gt=0)
    """Rank of the projection to the output gate. Default: v_head_dim."""
    gate_bias: bool = True
    """Whether the output gate has a bias. Default: true."""
    gate_activation: Literal["silu", "sigmoid"] = "sigmoid"
    """What the gate of the normed output passes through. Default: sigmoid."""
    A_init_min: float = Field(default=1.0, gt=0)
    """Lower end of the uniform draw of A. Default: 1."""
    A_init_max: float = Field(default=16.0, gt=0)
    """Upper end of the uniform draw of A. Default: 16."""

    @property
    def in_widths(self) -> tuple[int, ...]:
        """q, k and v together; the ranks of gate and decay; beta."""
        return self.conv_width, self.gate_rank, self.decay_rank, self.n_v_heads

    @property
    def inner_shapes(self) -> tuple[tuple[int, int], ...]:
        """From the ranks to the gates and to the decays."""
        decays = self.n_v_heads * self.head_dim
        return (self.gate_rank, self.width), (self.decay_rank, decays)

    @property
    def n_extra_params(self) -> int:
        """A_log per value head, dt_bias per key channel of each, the gate's bias."""
        return self.n_v_heads * (1 + self.head_dim) + self.gate_bias * self.width

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """As for every delta rule; one token alone has nothing that could decay."""
        unused = 2 * matmul_flops(batch, self.inner_shapes[1]) if n_tokens == 1 else 0
        return super().executed_backward_flops(d_model, batch, n_tokens) - unused

    def _pair_flops(self, chunk: int) -> int:
        if chunk <= LEAF:
            return 4 * chunk * chunk * self.n_v_heads * self.head_dim
        early = chunk // 2
        across = 4 * early * (chunk - early) * self.n_v_heads * self.head_dim
        return across + self._pair_flops(early) + self._pair_flops(chunk - early)
