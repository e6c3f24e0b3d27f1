"""Mamba-1: input projection, short convolution, selective scan, gate.

With x and z from one projection, x convolved and passed through SiLU, and r, B, C projected from
that x (each of the three normed where the declaration says so)::

    dt_t = softplus(W_dt r_t + dt_bias)
    S_t  = exp(-exp(A_log) dt_t) S_{t-1} + dt_t x_t B_t^T
    y_t  = S_t C_t + D x_t
    u_t  = y_t * SiLU(z_t)

dt_t, x_t and y_t have a number for every channel; A_log and S_t one for every channel and column.

Source: Gu and Dao 2023 (arXiv 2312.00752); norms: Lieber et al. 2024 (Jamba, arXiv 2403.19887).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.arch.mixers import Mamba1Config
from braidlm.mixers.dynamics import draw_dt_bias
from braidlm.mixers.telemetry import real, rms
from braidlm.ops.conv import causal_conv, conv_step
from braidlm.ops.dispatch import is_plain, state_dtype
from braidlm.ops.norm import rms_norm
from braidlm.ops.selective_scan import scan_step, selective_scan
from braidlm.segments import Segments


class Mamba1State(NamedTuple):
    """Fixed-size memory of each document, in at least fp32."""

    ssm: Tensor
    """(n_docs, d_inner, d_state)."""
    conv: Tensor
    """(n_docs, d_conv - 1, d_inner): the convolution's last inputs."""


class Dynamics(nn.Module):
    """A_log, D and dt_bias: kept apart so that they can stay in fp32."""

    def __init__(self, config: Mamba1Config) -> None:
        super().__init__()
        self.dt_range = (config.dt_min, config.dt_max, config.dt_init_floor)
        self.A_log = nn.Parameter(torch.empty(config.d_inner, config.d_state))
        self.D = nn.Parameter(torch.empty(config.d_inner))
        self.dt_bias = nn.Parameter(torch.empty(config.d_inner))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give A the rates 1, 2, ..., d_state in every channel; draw dt log-uniformly; D is 1."""
        rates = torch.arange(1, self.A_log.shape[1] + 1, device=self.A_log.device)
        self.A_log.copy_(rates.to(self.A_log.dtype).log().expand_as(self.A_log))
        self.D.fill_(1.0)
        draw_dt_bias(self.dt_bias, *self.dt_range)


class Mamba1(nn.Module):
    """The mixer; its state is a `Mamba1State`."""

    def __init__(self, config: Mamba1Config, d_model: int) -> None:
        super().__init__()
        self.chunk_size, self.norm_eps = config.chunk_size, config.dt_bc_norm_eps
        self.is_normed = config.dt_bc_norm != "none"
        self.widths = [config.dt_rank, config.d_state, config.d_state]
        self.in_proj = nn.Linear(d_model, 2 * config.d_inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(config.d_inner, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.d_inner)) if config.conv_bias else None
        self.x_proj = nn.Linear(config.d_inner, config.x_proj_width, bias=False)
        self.norm_weight = None  # of dt's source, B and C, side by side
        if config.dt_bc_norm == "rms":
            self.norm_weight = nn.Parameter(torch.empty(config.x_proj_width))
        self.dt_proj = nn.Linear(config.dt_rank, config.d_inner, bias=False)
        self.dynamics = Dynamics(config)

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; the convolution as torch's own Conv1d does."""
        nn.init.normal_(self.in_proj.weight, std=std)
        nn.init.normal_(self.x_proj.weight, std=std)
        bound = self.conv_weight.shape[1] ** -0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        if self.conv_bias is not None:
            nn.init.uniform_(self.conv_bias, -bound, bound)
        if self.norm_weight is not None:
            nn.init.ones_(self.norm_weight)
        bound = self.dt_proj.in_features**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        self.dynamics.reset_parameters()

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight: x, z; dt's source, B, C."""
        d_inner = self.dt_proj.out_features
        return {"in_proj.weight": (d_inner, d_inner), "x_proj.weight": tuple(self.widths)}

    def forward(
        self, x: Tensor, segments: Segments | None, state: Mamba1State | None, return_state: bool
    ) -> tuple[Tensor, Mamba1State | None]:
        """Map x (B, T, d_model) to u (B, T, d_inner)."""
        if state is not None and segments is None and x.shape[1] == 1 and is_plain(x):
            return self._step(x, state, return_state)
        x, z, conv = self._convolve(x, segments, state, return_state)
        dt, B, C = self._select(x)
        y, ssm = selective_scan(
            x,
            dt,
            self._rates(dt.dtype),
            B,
            C,
            self.dynamics.D,
            chunk_size=self.chunk_size,
            segments=segments,
            initial_state=None if state is None else state.ssm,
            return_state=return_state,
        )
        u = y * F.silu(z)
        if ssm is None or conv is None:
            return u, None
        return u, Mamba1State(ssm, conv)

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell means of dt and of the decay exp(A dt), and the rms of the final states."""
        _, state = self(x, segments, None, True)
        assert state is not None
        dt, _, _ = self._select(self._convolve(x, segments, None, False)[0])
        dt = real(dt, segments)
        columns = [torch.exp(A * dt).mean() for A in self._rates(dt.dtype).unbind(1)]
        decay = torch.stack(columns).mean()
        return {"dt": dt.mean(), "decay": decay, "state_rms": rms(state.ssm)}

    def _convolve(
        self, x: Tensor, segments: Segments | None, state: Mamba1State | None, return_state: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Project to x and z (B, T, d_inner) and convolve x, whose last inputs are returned too."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x, conv = causal_conv(
            x,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            segments=segments,
            initial_state=None if state is None else state.conv,
            return_state=return_state,
        )
        return x, z, conv

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map the convolved x to the step sizes (B, T, d_inner), at least fp32, and to B and C."""
        parts = self.x_proj(x).split(self.widths, dim=-1)
        if self.is_normed:
            weights = (None, None, None)
            if self.norm_weight is not None:
                weights = self.norm_weight.split(self.widths)
            pairs = zip(parts, weights, strict=True)
            parts = tuple(rms_norm(part, weight, self.norm_eps) for part, weight in pairs)
        source, B, C = parts
        precise = state_dtype(source.dtype)
        dt = self.dt_proj(source).to(precise) + self.dynamics.dt_bias.to(precise)
        return F.softplus(dt), B, C

    def _rates(self, dtype: torch.dtype) -> Tensor:
        """A (d_inner, d_state), negative."""
        return -torch.exp(self.dynamics.A_log.to(dtype))

    def _step(
        self, x: Tensor, state: Mamba1State, return_state: bool
    ) -> tuple[Tensor, Mamba1State | None]:
        """One token per row without gradients: what `forward` computes, in few operations."""
        wide = state.ssm.dtype
        inner, z = self.in_proj(x).to(wide).chunk(2, dim=-1)
        inner, conv = conv_step(inner, self.conv_weight, self.conv_bias, state.conv)
        inner = F.silu(inner)
        dt, B, C = self._select(inner.to(x.dtype))
        rates, skip = self._rates(wide), self.dynamics.D.to(wide)
        y, ssm = scan_step(inner, dt, rates, B, C, skip, state.ssm)
        u = (y * F.silu(z)).to(x.dtype)
        return u, Mamba1State(ssm, conv) if return_state else None
