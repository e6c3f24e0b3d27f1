"""Declaration of Gated DeltaNet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.mixers.delta import DeltaConfig


class GatedDeltaNetConfig(DeltaConfig):
    """Gated DeltaNet: the delta rule with one decay per head.

    Source: Yang, Kautz and Hatamizadeh 2024 (arXiv 2412.06464).
    """

    kind: Literal["gated_deltanet"] = "gated_deltanet"
    """The mixer's name."""
    gate_activation: Literal["silu", "sigmoid"] = "silu"
    """What the gate of the normed output passes through. Default: silu."""
    A_init_min: float = Field(default=0.0, ge=0)
    """Lower end of the uniform draw of A; a draw is at least 0.0001. Default: 0."""
    A_init_max: float = Field(default=16.0, gt=0)
    """Upper end of the uniform draw of A. Default: 16."""

    @property
    def in_widths(self) -> tuple[int, ...]:
        """q, k and v together; gate; decay; beta."""
        return self.conv_width, self.width, self.n_v_heads, self.n_v_heads

    @property
    def inner_shapes(self) -> tuple[tuple[int, int], ...]:
        """None."""
        return ()

    @property
    def n_extra_params(self) -> int:
        """A_log and dt_bias, one of each per value head."""
        return 2 * self.n_v_heads

    def _pair_flops(self, chunk: int) -> int:
        return 4 * chunk * chunk * self.k_width
