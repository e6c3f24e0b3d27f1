"""Mamba-1: input projection, short convolution, selective scan, gate.

With x and z from one projection, x convolved and passed through SiLU, and r, B, C projected from
that x (each of the three normed where the declaration says so)::

    dt_t = softplus(W_dt r_t + dt_bias)
    S_t  = exp(-exp(A_log) dt_t) S_{t-1} + dt_t x_t B_t^T
    y_t  = S_t C_t + D x_t
    u_t  = y_t * SiLU(z_t)

dt_t, x_t and y_t have a number for every channel; A_log and S_t one for every channel and column.
In groups, each group of channels has an r, B, C and W_dt of its own, projected from its x alone.

Source: Gu and Dao 2023 (arXiv 2312.00752); norms: Lieber et al. 2024 (Jamba, arXiv 2403.19887).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.arch.mixers import Mamba1Config
from braidlm.mixers.dynamics import draw_dt_bias
from braidlm.mixers.reading import Forgetting
from braidlm.mixers.step_filter import StepRule
from braidlm.mixers.telemetry import real, rms
from braidlm.mixers.untouched import weight_of
from braidlm.ops.conv import causal_conv, conv_step
from braidlm.ops.dispatch import is_plain, state_dtype
from braidlm.ops.norm import rms_norm
from braidlm.ops.selective_scan import scan_step, selective_scan
from braidlm.ops.selective_scan.gate import steps
from braidlm.segments import Segments


class Mamba1State(NamedTuple):
    """Fixed-size memory of each document, in at least fp32."""

    ssm: Tensor
    """(n_docs, d_inner, d_state)."""
    conv: Tensor
    """(n_docs, d_conv - 1, d_inner): the convolution's last inputs."""


class Group(NamedTuple):
    """What `selective_scan` takes of one group of channels."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt_bias: Tensor | None
    """None where `dt` are the steps already."""

    @property
    def steps(self) -> Tensor:
        """The steps that the scan takes."""
        return self.dt if self.dt_bias is None else steps(self.dt, self.dt_bias, True)


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

    step_rule: StepRule | None = None
    """Changes the steps of documents that begin in a call, see `mixers.step_filter`."""

    def __init__(self, config: Mamba1Config, d_model: int) -> None:
        super().__init__()
        self.chunk_size, self.norm_eps = config.chunk_size, config.dt_bc_norm_eps
        self.is_normed = config.dt_bc_norm != "none"
        self.n_groups, group = config.n_groups, config.d_inner // config.n_groups
        self.widths = [config.dt_rank, config.d_state, config.d_state]
        self.in_proj = nn.Linear(d_model, 2 * config.d_inner, bias=config.in_bias)
        self.conv_weight = nn.Parameter(torch.empty(config.d_inner, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.d_inner)) if config.conv_bias else None
        # Of groups, one below the other; so are the rows of dt_proj.
        n_rows = config.n_groups * config.x_proj_width
        self.x_proj = nn.Linear(group, n_rows, bias=False)
        self.norm_weight = None  # of dt's source, B and C, side by side
        if config.dt_bc_norm == "rms":
            self.norm_weight = nn.Parameter(torch.empty(n_rows))
        self.dt_proj = nn.Linear(config.dt_rank, config.d_inner, bias=False)
        self.dynamics = Dynamics(config)

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; the convolution as torch's own Conv1d does."""
        nn.init.normal_(self.in_proj.weight, std=std)
        if self.in_proj.bias is not None:
            nn.init.zeros_(self.in_proj.bias)
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
        """Name the matrices that lie above each other: x, z; dt's source, B, C; those of groups."""
        d_inner, n = self.dt_proj.out_features, self.n_groups
        return {
            "in_proj.weight": (d_inner, d_inner),
            "x_proj.weight": tuple(self.widths) * n,
            "dt_proj.weight": (d_inner // n,) * n,
        }

    def forward(
        self, x: Tensor, segments: Segments | None, state: Mamba1State | None, return_state: bool
    ) -> tuple[Tensor, Mamba1State | None]:
        """Map x (B, T, d_model) to u (B, T, d_inner)."""
        if state is not None and segments is None and x.shape[1] == 1 and is_plain(x):
            return self._step(x, state, return_state)
        x, z, conv = self._convolve(x, segments, state, return_state)
        held = None if state is None else state.ssm

        def scan(g: Group, gate: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return selective_scan(
                *g[:6],
                z=gate,
                dt_bias=g.dt_bias,
                dt_softplus=g.dt_bias is not None,
                chunk_size=self.chunk_size,
                segments=segments,
                initial_state=initial,
                return_state=return_state,
            )

        groups = self._groups(x, held)
        if self.step_rule is not None and held is None:
            groups = _with_steps(groups, self.step_rule, segments)
        gates = z.chunk(self.n_groups, dim=-1)
        pieces = [scan(g, gate, h) for (g, h), gate in zip(groups, gates, strict=True)]
        u = _joined([y for y, _ in pieces], -1)
        ends = [ssm for _, ssm in pieces if ssm is not None]
        if not ends or conv is None:
            return u, None
        return u, Mamba1State(_joined(ends, 1), conv)

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell means of dt and of the decay exp(A dt), and the rms of the final states."""
        told = self.forgetting(x, segments)
        _, state = self(x, segments, None, True)
        assert state is not None
        decay = told.mean_decay(segments)
        return {"dt": real(told.step, segments).mean(), "decay": decay, "state_rms": rms(state.ssm)}

    def forgetting(self, x: Tensor, segments: Segments | None) -> Forgetting:
        """Return the channels' steps dt and their columns' rates -A, see `mixers.reading`."""
        inner, _, _ = self._convolve(x, segments, None, False)
        groups = [g for g, _ in self._groups(inner, None)]
        steps, rates = _joined([g.steps for g in groups], -1), _joined([-g.A for g in groups], 0)
        return Forgetting(steps, rates, 1)

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

    def _groups(self, x: Tensor, state: Tensor | None) -> list[tuple[Group, Tensor | None]]:
        """What each group scans and its part of the states, from the convolved x (B, T, d_inner).

        What lies in `dynamics` is at least fp32.
        """
        n = self.n_groups
        precise = state_dtype(x.dtype)
        rates = -torch.exp(self.dynamics.A_log.to(precise))
        parts = (v.to(precise).chunk(n) for v in (self.dynamics.D, self.dynamics.dt_bias))
        held = (None,) * n if state is None else state.chunk(n, dim=1)
        found = []
        rows = zip(x.chunk(n, dim=-1), rates.chunk(n), *parts, held, strict=True)
        for index, (inner, A, D, bias, initial) in enumerate(rows):
            source, B, C = self._select(inner, index)
            dt = self._linear("dt_proj", source, index)
            found.append((Group(inner, dt, A, B, C, D, bias), initial))
        return found

    def _select(self, inner: Tensor, index: int) -> tuple[Tensor, ...]:
        """Map a group's convolved x to dt's source, B and C."""
        selected = self._linear("x_proj", inner, index)
        if not self.is_normed:
            return selected.split(self.widths, dim=-1)
        weights: tuple[Tensor | None, ...] = (None, None, None)
        if self.norm_weight is not None:
            weights = self.norm_weight.chunk(self.n_groups)[index].split(self.widths)
        pairs = zip(selected.split(self.widths, dim=-1), weights, strict=True)
        return tuple(rms_norm(part, weight, self.norm_eps) for part, weight in pairs)

    def _linear(self, name: str, x: Tensor, index: int) -> Tensor:
        """The rows of one group; without groups the module itself, for what hangs on it."""
        module: nn.Linear = getattr(self, name)
        if self.n_groups == 1:
            return module(x)
        return F.linear(x, weight_of(module, name).chunk(self.n_groups)[index])

    def _step(
        self, x: Tensor, state: Mamba1State, return_state: bool
    ) -> tuple[Tensor, Mamba1State | None]:
        """One token per row without gradients: what `forward` computes, in few operations."""
        wide = state.ssm.dtype
        inner, z = self.in_proj(x).to(wide).chunk(2, dim=-1)
        inner, conv = conv_step(inner, self.conv_weight, self.conv_bias, state.conv)
        inner = F.silu(inner)
        narrow = self._groups(inner.to(x.dtype), None)
        parts = inner.chunk(self.n_groups, dim=-1), state.ssm.chunk(self.n_groups, dim=1)
        rows = zip(narrow, *parts, strict=True)
        ends = [scan_step(part, g.steps, g.A, g.B, g.C, g.D, held) for (g, _), part, held in rows]
        y, ssm = _joined([y for y, _ in ends], -1), _joined([ssm for _, ssm in ends], 1)
        u = (y * F.silu(z)).to(x.dtype)
        return u, Mamba1State(ssm, conv) if return_state else None


def _with_steps(
    groups: list[tuple[Group, Tensor | None]], rule: StepRule, segments: Segments | None
) -> list[tuple[Group, Tensor | None]]:
    changed = rule(_joined([g.steps for g, _ in groups], -1), segments).chunk(len(groups), dim=-1)
    pairs = zip(groups, changed, strict=True)
    return [(g._replace(dt=dt, dt_bias=None), held) for (g, held), dt in pairs]


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
