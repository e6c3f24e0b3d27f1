"""Kimi Delta Attention: the delta rule with one decay per key channel, low-rank gates.

    g_t = -exp(A_log) softplus(W_f2 W_f1 x_t + dt_bias)         A per head, the rest per channel
    z_t = W_g2 W_g1 x_t + bias

See `braidlm.mixers.delta` for the rest.

Source: Kimi Team 2025 (arXiv 2510.26692).
"""

from __future__ import annotations

from torch import Tensor, nn

from braidlm.arch.mixers import KDAConfig
from braidlm.mixers.delta import DeltaMixer, Projected


class KDA(DeltaMixer):
    """The mixer; the rows of its input projection are q, k, v, W_g1, W_f1, b."""

    def __init__(self, config: KDAConfig, d_model: int, norm_eps: float) -> None:
        super().__init__(config, d_model, norm_eps, decays_per_head=config.head_dim)
        (gate_rank, width), (decay_rank, decays) = config.inner_shapes
        self.gate_proj = nn.Linear(gate_rank, width, bias=config.gate_bias)
        self.decay_proj = nn.Linear(decay_rank, decays, bias=False)

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; the gate's bias begins at zero."""
        super().reset_parameters(std)
        for projection in (self.gate_proj, self.decay_proj):
            nn.init.normal_(projection.weight, std=std)
        if self.gate_proj.bias is not None:
            nn.init.zeros_(self.gate_proj.bias)

    def project(self, x: Tensor) -> Projected:
        """Give what the rule needs of x (B, T, d_model)."""
        qkv, gate, decay, b = self.in_proj(x).split(self.in_widths, dim=-1)
        g = self.dynamics.log_decay(self.decay_proj(decay))
        return Projected(qkv, self.gate_proj(gate), g, self.strength(b))
