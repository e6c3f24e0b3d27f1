"""Gated DeltaNet: the delta rule with one decay per head, all projections full.

    g_t = -exp(A_log) softplus(W_a x_t + dt_bias)

See `braidlm.mixers.delta` for the rest.

Source: Yang, Kautz and Hatamizadeh 2024 (arXiv 2412.06464).
"""

from __future__ import annotations

from torch import Tensor

from braidlm.arch.mixers import GatedDeltaNetConfig
from braidlm.mixers.delta import DeltaMixer, Projected


class GatedDeltaNet(DeltaMixer):
    """The mixer; the rows of its input projection are q, k, v, z, a, b."""

    def __init__(self, config: GatedDeltaNetConfig, d_model: int, norm_eps: float) -> None:
        super().__init__(config, d_model, norm_eps, decays_per_head=1)

    def project(self, x: Tensor) -> Projected:
        """Give what the rule needs of x (B, T, d_model)."""
        qkv, gate, a, b = self.in_proj(x).split(self.in_widths, dim=-1)
        return Projected(qkv, gate, self.dynamics.log_decay(a).squeeze(-1), self.strength(b))
