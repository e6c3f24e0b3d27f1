"""What Gated DeltaNet and KDA do alike: convolution, unit length, delta rule, gated norm.

With q, k, v, a gate z, log decays g <= 0 and strengths b from projections of x, and q, k, v
convolved and passed through SiLU::

    q_t, k_t = q_t / |q_t|, k_t / |k_t|
    S'_t = Diag(exp(g_t)) S_{t-1}
    S_t  = S'_t + sigmoid(b_t) k_t (v_t - S'_t^T k_t)^T
    u_t  = RMSNorm(head_dim ** -0.5 S_t^T q_t) * f(z_t)          each head by itself

The length is sqrt(sum of squares + 1e-6). Value heads that share a key head stand side by side.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.arch.mixers import DeltaConfig
from braidlm.mixers.reading import Forgetting
from braidlm.mixers.telemetry import real, rms
from braidlm.ops.conv import causal_conv, conv_step
from braidlm.ops.dispatch import state_dtype
from braidlm.ops.gated_delta import gated_delta, gated_delta_step
from braidlm.ops.norm import gated_rms_norm, l2_norm
from braidlm.segments import Segments


class DeltaState(NamedTuple):
    """Fixed-size memory of each document, in at least fp32."""

    memory: Tensor
    """(n_docs, n_v_heads, head_dim, v_head_dim): what is found at a key."""
    conv: Tensor
    """(n_docs, d_conv - 1, channels of q, k and v): the convolution's last inputs."""


class Projected(NamedTuple):
    """What a mixer makes of x before the convolution and the rule."""

    qkv: Tensor
    """(B, T, 2 n_heads head_dim + n_v_heads v_head_dim)"""
    gate: Tensor
    """(B, T, n_v_heads v_head_dim)"""
    g: Tensor
    """(B, T, n_v_heads) or (B, T, n_v_heads, head_dim) log decays, at least fp32"""
    beta: Tensor
    """(B, T, n_v_heads), at least fp32"""


class Rates(nn.Module):
    """A_log per head and dt_bias: kept apart so that they can stay in fp32."""

    def __init__(self, config: DeltaConfig, n_biases: int) -> None:
        super().__init__()
        self.A_range = (max(config.A_init_min, 1e-4), config.A_init_max)
        self.dt_range = (config.dt_min, config.dt_max, config.dt_init_floor)
        self.A_log = nn.Parameter(torch.empty(config.n_v_heads))
        self.dt_bias = nn.Parameter(torch.empty(n_biases))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw A uniformly and the step size log-uniformly."""
        low, high, floor = self.dt_range
        self.A_log.uniform_(*self.A_range).log_()
        dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(low), math.log(high)))
        dt = dt.clamp_min(floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def log_decay(self, dt: Tensor) -> Tensor:
        """Steps as projected -> -exp(A_log) softplus(dt + dt_bias), at least fp32.

        Args:
            dt: (B, T, n_biases).

        Returns:
            (B, T, n_v_heads, decays per head).
        """
        precise = state_dtype(dt.dtype)
        dt = F.softplus(dt.to(precise) + self.dt_bias.to(precise))
        A = -torch.exp(self.A_log.to(precise))
        return A[:, None] * dt.unflatten(-1, (len(A), -1))


class DeltaMixer(nn.Module):
    """A mixer by the gated delta rule; its state is a `DeltaState`."""

    def __init__(
        self, config: DeltaConfig, d_model: int, norm_eps: float, *, decays_per_head: int
    ) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.n_v_heads, self.v_head_dim = config.n_v_heads, config.v_head_dim
        self.chunk_size = config.chunk_size
        self.gate_activation: Literal["silu", "sigmoid"] = config.gate_activation
        self.norm_eps = norm_eps if config.norm_eps is None else config.norm_eps
        self.beta_max = 2.0 if config.allow_negative_eigenvalues else 1.0
        self.in_widths = list(config.in_widths)
        self.conv_widths = [config.k_width, config.k_width, config.width]
        self.in_proj = nn.Linear(d_model, sum(config.in_widths), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.conv_width)) if config.conv_bias else None
        self.dynamics = Rates(config, config.n_v_heads * decays_per_head)
        self.norm_weight = nn.Parameter(torch.empty(config.v_head_dim))

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; the convolution as torch's own Conv1d does."""
        nn.init.normal_(self.in_proj.weight, std=std)
        bound = self.conv_weight.shape[1] ** -0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        if self.conv_bias is not None:
            nn.init.uniform_(self.conv_bias, -bound, bound)
        self.dynamics.reset_parameters()
        nn.init.ones_(self.norm_weight)

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight: q, k, v, then `in_widths`."""
        return {"in_proj.weight": (*self.conv_widths, *self.in_widths[1:])}

    @abstractmethod
    def project(self, x: Tensor) -> Projected:
        """Give what the rule needs of x (B, T, d_model)."""

    def forward(
        self, x: Tensor, segments: Segments | None, state: DeltaState | None, return_state: bool
    ) -> tuple[Tensor, DeltaState | None]:
        """Map x (B, T, d_model) to u (B, T, n_v_heads v_head_dim)."""
        if state is not None and segments is None and x.shape[1] == 1 and _is_plain(x):
            return self._step(x, state, return_state)
        p = self.project(x)
        qkv, conv = causal_conv(
            p.qkv,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            segments=segments,
            initial_state=None if state is None else state.conv,
            return_state=return_state,
        )
        y, memory = gated_delta(
            *self._heads(qkv),
            p.g,
            p.beta,
            chunk_size=self.chunk_size,
            segments=segments,
            initial_state=None if state is None else state.memory,
            return_state=return_state,
        )
        u = self._gated(y, p.gate)
        if memory is None or conv is None:
            return u, None
        return u, DeltaState(memory, conv)

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell the mean strength and decay over tokens and heads, and the final states' rms."""
        told = self.forgetting(x, segments)
        _, state = self(x, segments, None, True)
        assert state is not None
        assert told.beta is not None
        beta, decay = real(told.beta, segments).mean(), told.mean_decay(segments)
        return {"beta": beta, "decay": decay, "state_rms": rms(state.memory)}

    def forgetting(self, x: Tensor, segments: Segments | None) -> Forgetting:
        """Return the log decays of heads or of their key channels, and the strengths."""
        p = self.project(x)
        step = -p.g.flatten(2)
        return Forgetting(step, step.new_ones(step.shape[-1], 1), self.n_v_heads, p.beta)

    def strength(self, b: Tensor) -> Tensor:
        """As projected (B, T, n_v_heads) -> beta, at least fp32."""
        beta = torch.sigmoid(b.to(state_dtype(b.dtype)))
        return beta if self.beta_max == 1.0 else self.beta_max * beta

    def _step(
        self, x: Tensor, state: DeltaState, return_state: bool
    ) -> tuple[Tensor, DeltaState | None]:
        """One token per row without gradients: what `forward` computes, in few operations."""
        wide = state.memory.dtype
        p = self.project(x)
        qkv, conv = conv_step(p.qkv.to(wide), self.conv_weight, self.conv_bias, state.conv)
        heads = self._heads(F.silu(qkv))
        y, memory = gated_delta_step(
            *heads, p.g, p.beta, initial_state=state.memory, return_state=return_state
        )
        u = self._gated(y, p.gate).to(x.dtype)
        return u, None if memory is None else DeltaState(memory, conv)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (B, T, n_heads, head_dim) of unit length, and values."""
        k_width, _, width = self.conv_widths
        qk, v = qkv.split((2 * k_width, width), dim=-1)
        q, k = l2_norm(qk.unflatten(-1, (2 * self.n_heads, self.head_dim))).chunk(2, dim=2)
        return q, k, v.unflatten(-1, (self.n_v_heads, self.v_head_dim))

    def _gated(self, y: Tensor, gate: Tensor) -> Tensor:
        """(B, T, n_v_heads, v_head_dim) and the gate -> u."""
        u = gated_rms_norm(
            y,
            gate.view(y.shape),
            self.norm_weight,
            self.norm_eps,
            norm_before_gate=True,
            activation=self.gate_activation,
        )
        return u.flatten(2)


def _is_plain(x: Tensor) -> bool:
    """Whether neither gradients nor autocast are on."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)
