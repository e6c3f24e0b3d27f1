"""Mamba-2: input projection, short convolution, state-space scan, gated norm.

With z, x, B, C, dt from one projection, and x, B, C convolved and passed through SiLU::

    dt_t = softplus(dt_t + dt_bias)
    S_t  = exp(-exp(A_log) dt_t) S_{t-1} + dt_t x_t B_t^T
    y_t  = S_t C_t + D x_t
    u_t  = RMSNorm(y_t * SiLU(z_t))

Source: Dao and Gu 2024 (arXiv 2405.21060).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.arch.mixers import Mamba2Config
from braidlm.mixers.dynamics import draw_dt_bias
from braidlm.mixers.reading import Forgetting
from braidlm.mixers.step_filter import StepRule
from braidlm.mixers.telemetry import real, rms
from braidlm.ops.conv import causal_conv, conv_step
from braidlm.ops.dispatch import is_plain, state_dtype
from braidlm.ops.mamba2 import Shape, Weights, joined, joins
from braidlm.ops.norm import gated_rms_norm
from braidlm.ops.rows import ConvStep, Ending, Read, product
from braidlm.ops.ssd import ssd, ssd_step
from braidlm.ops.ssd.projected import Gate, Rates, projected_step
from braidlm.segments import Segments


class Mamba2State(NamedTuple):
    """Fixed-size memory of each document, in at least fp32."""

    ssm: Tensor
    """(n_docs, n_heads, head_dim, d_state)."""
    conv: Tensor
    """(n_docs, d_conv - 1, d_inner + 2 n_groups d_state): the convolution's last inputs."""


class OwnState(Mamba2State):
    """A state that a step by `ops.rows` writes in place, see `Mamba2.reserve`."""

    __slots__ = ()


class Dynamics(nn.Module):
    """A_log, D and dt_bias, one number per head: kept apart so that they can stay in fp32."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.A_range = (config.A_init_min, config.A_init_max)
        self.dt_range = (config.dt_min, config.dt_max, config.dt_init_floor)
        self.A_log = nn.Parameter(torch.empty(config.n_heads))
        self.D = nn.Parameter(torch.empty(config.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(config.n_heads))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw A uniformly and the step size log-uniformly; D is 1."""
        self.A_log.uniform_(*self.A_range).log_()
        self.D.fill_(1.0)
        draw_dt_bias(self.dt_bias, *self.dt_range)


class Mamba2(nn.Module):
    """The mixer; its state is a `Mamba2State`."""

    compiles = True
    projects_first = True
    factors: Tensor | None
    step_rule: StepRule | None = None
    """Changes the steps of documents that begin in a call, see `mixers.step_filter`."""

    def __init__(self, config: Mamba2Config, d_model: int, norm_eps: float) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.n_groups, self.d_state = config.n_groups, config.d_state
        self.chunk_size, self.norm_eps = config.chunk_size, norm_eps
        self.norm_first = config.norm == "norm_first"
        self.shape = Shape(
            *(self.n_heads, self.head_dim, self.n_groups, self.d_state),
            *(self.chunk_size, self.norm_eps, self.norm_first),
        )
        self.widths = [config.d_inner, config.conv_width, config.n_heads]
        bc = config.n_groups * config.d_state
        self.conv_widths = [config.d_inner, bc, bc]
        self.in_proj = nn.Linear(d_model, config.in_proj_width, bias=config.in_bias)
        self.multipliers = config.multipliers
        self.register_buffer("factors", self._factors(), persistent=False)
        self.dt_limits = (config.dt_limit_min, config.dt_limit_max)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.conv_width)) if config.conv_bias else None
        self.dynamics = Dynamics(config)
        self.norm_weight = (
            None if config.norm == "none" else nn.Parameter(torch.empty(config.d_inner))
        )

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; the convolution as torch's own Conv1d does."""
        nn.init.normal_(self.in_proj.weight, std=std)
        if self.in_proj.bias is not None:
            nn.init.zeros_(self.in_proj.bias)
        if self.factors is not None and (factors := self._factors()) is not None:
            self.factors.copy_(factors)
        bound = self.conv_weight.shape[1] ** -0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        if self.conv_bias is not None:
            nn.init.uniform_(self.conv_bias, -bound, bound)
        self.dynamics.reset_parameters()
        if self.norm_weight is not None:
            nn.init.ones_(self.norm_weight)

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight: z, x, B, C, dt, by rows."""
        return {"in_proj.weight": self._parts()}

    def _parts(self) -> tuple[int, ...]:
        return (self.widths[0], *self.conv_widths, self.widths[2])

    def _factors(self) -> Tensor | None:
        """(in_proj_width,): the factor of each of z, x, B, C, dt; None if all are 1."""
        if all(m == 1.0 for m in self.multipliers):
            return None
        pairs = zip(self._parts(), self.multipliers, strict=True)
        return torch.cat([torch.full((width,), factor) for width, factor in pairs])

    def _project(self, x: Tensor) -> Tensor:
        """x (B, T, d_model) -> z, x, B, C, dt beside each other."""
        projected = self.in_proj(x)
        return projected if self.factors is None else projected * self.factors.to(projected.dtype)

    def forward(
        self, x: Tensor, segments: Segments | None, state: Mamba2State | None, return_state: bool
    ) -> tuple[Tensor, Mamba2State | None]:
        """Map x (B, T, d_model) to u (B, T, d_inner)."""
        if state is not None and segments is None and x.shape[1] == 1 and is_plain(x):
            return self._step(x, state, return_state)
        p = self._project(x)
        if state is None and not return_state and self._joins(p, segments):
            return joined(p, self._weights(p.dtype), segments, self.shape), None
        z, xbc, dt = p.split(self.widths, dim=-1)
        xbc, conv = causal_conv(
            xbc,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            segments=segments,
            initial_state=None if state is None else state.conv,
            return_state=return_state,
        )
        u, ssm = self._scan(xbc, dt, segments, None if state is None else state.ssm, return_state)
        u = self._gate(u, z)
        if ssm is None or conv is None:
            return u, None
        return u, Mamba2State(ssm, conv)

    def _joins(self, p: Tensor, segments: Segments | None) -> bool:
        is_plain = self.dt_limits == (0.0, None) and self.step_rule is None
        if not is_plain or self.norm_weight is None:
            return False
        group = self.widths[0] // self.n_groups
        sizes = {"K": self.conv_weight.shape[1], "P": self.head_dim, "N": self.d_state, "W": group}
        return joins(p, sizes, segments)

    def _weights(self, dtype: torch.dtype) -> Weights:
        """What `ops.mamba2` reads; the convolution's in `dtype`."""
        assert self.norm_weight is not None
        own, wide = self.dynamics, state_dtype(dtype)
        bias = None if self.conv_bias is None else self.conv_bias.to(dtype)
        A = -torch.exp(own.A_log.to(wide))
        scale = self.norm_weight.to(wide)
        return Weights(self.conv_weight.to(dtype), bias, own.dt_bias.to(wide), A, own.D, scale)

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell the mean dt and decay exp(A dt) over tokens and heads, and the final states' rms."""
        told = self.forgetting(x, segments)
        _, state = self(x, segments, None, True)
        assert state is not None
        decay = told.mean_decay(segments)
        return {"dt": real(told.step, segments).mean(), "decay": decay, "state_rms": rms(state.ssm)}

    def forgetting(self, x: Tensor, segments: Segments | None) -> Forgetting:
        """Return the steps dt and the rates -A of the heads, see `mixers.reading`."""
        dt, A = self._rates(self._project(x).split(self.widths, dim=-1)[-1])
        return Forgetting(dt, -A[:, None], self.n_heads)

    def _rates(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """dt (..., n_heads) as projected -> the step sizes and A (n_heads,), at least fp32."""
        precise = state_dtype(dt.dtype)
        dt = F.softplus(dt.to(precise) + self.dynamics.dt_bias.to(precise))
        if self.dt_limits != (0.0, None):
            dt = dt.clamp(*self.dt_limits)
        return dt, -torch.exp(self.dynamics.A_log.to(precise))

    def _step(
        self, x: Tensor, state: Mamba2State, return_state: bool
    ) -> tuple[Tensor, Mamba2State | None]:
        """One token per row without gradients: what `forward` computes, in few operations.

        A narrow model of one row spends its time on calling operations, not in them.
        """
        wide = state.ssm.dtype
        z, xbc, dt = self._project(x).to(wide).split(self.widths, dim=-1)
        xbc, conv = conv_step(xbc, self.conv_weight, self.conv_bias, state.conv)
        heads, b, c = F.silu(xbc).split(self.conv_widths, dim=-1)
        heads = heads.unflatten(-1, (self.n_heads, self.head_dim))
        dt, A = self._rates(dt)
        y, ssm = ssd_step(
            heads,
            dt,
            A,
            b.unflatten(-1, (self.n_groups, self.d_state)),
            c.unflatten(-1, (self.n_groups, self.d_state)),
            initial_state=state.ssm,
        )
        y = torch.addcmul(y, heads, self.dynamics.D.to(wide)[:, None]).flatten(2)
        after = (OwnState if isinstance(state, OwnState) else Mamba2State)(ssm, conv)
        return self._gate(y, z).to(x.dtype), after if return_state else None

    def reserve(self, state: Mamba2State, n_tokens: int) -> Mamba2State:
        """Return a state that later steps may write in place; its size is the same for ever."""
        del n_tokens
        return OwnState(*state)

    def reads_rows(self, is_step: bool, state: Mamba2State | None) -> bool:
        """Whether `from_rows` can go on from this state: one token of each document."""
        is_known = self.factors is None and (self.n_groups == 1 or self.norm_weight is None)
        return is_step and state is not None and is_known

    def from_rows(self, read: Read, state: Mamba2State) -> tuple[Read, Mamba2State]:
        """Take one token per row, before its norm, to u (n, d_inner) before its own.

        Fewer and longer operations than `_step`: for a GPU. An `OwnState` is written in place.
        """
        if not isinstance(state, OwnState):
            state = Mamba2State(state.ssm.clone(), state.conv.clone())
        own = self.dynamics
        conv = ConvStep(self.widths[0], self.conv_weight, self.conv_bias, state.conv)
        ending = Ending(conv=conv)
        wide = state.ssm.dtype
        p = product(read, self.in_proj.weight, self.in_proj.bias, ending, dtype=wide)
        z, xbcdt = p.split([self.widths[0], self.widths[1] + self.widths[2]], dim=-1)
        rates = Rates(own.dt_bias, own.A_log, own.D, self.dt_limits, self.n_groups)
        narrow = torch.bfloat16  # as wide in its range as fp32, which the norm may need
        dtype = narrow if self.conv_weight.dtype == narrow else wide
        gate = Gate(z, self.norm_weight, self.norm_first, dtype)
        u, squares = projected_step(xbcdt, rates, state.ssm, gate)
        has_norm = self.norm_weight is not None
        return Read(u, has_norm, None, 0.0, self.norm_eps, squares if has_norm else None), state

    def _scan(
        self,
        xbc: Tensor,
        dt: Tensor,
        segments: Segments | None,
        state: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        dt, A = self._rates(dt)
        if self.step_rule is not None and state is None:
            dt = self.step_rule(dt, segments)
        heads, b, c = xbc.split(self.conv_widths, dim=-1)
        heads = heads.unflatten(-1, (self.n_heads, self.head_dim))
        y, ssm = ssd(
            heads,
            dt,
            A,
            b.unflatten(-1, (self.n_groups, self.d_state)),
            c.unflatten(-1, (self.n_groups, self.d_state)),
            D=self.dynamics.D,
            chunk_size=self.chunk_size,
            segments=segments,
            initial_state=state,
            return_state=return_state,
        )
        return y.flatten(2), ssm

    def _gate(self, y: Tensor, z: Tensor) -> Tensor:
        if self.norm_weight is None:
            return y * F.silu(z)
        return gated_rms_norm(
            y,
            z,
            self.norm_weight,
            self.norm_eps,
            n_groups=self.n_groups,
            norm_before_gate=self.norm_first,
        )
