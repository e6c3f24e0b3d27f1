"""B'MOJO-F: attention to a window of tokens, and to what a recurrence made of those before it.

    f = W_f SSM(x)
    q = W_q x                k, v = W_k x, W_v x                k', v' = W_k f, W_v f
    u_t = softmax over (q_t k_s, t - w < s <= t) and (q_t k'_s, t - 2w < s <= t - w)

Untied, faded tokens have a W_k, W_v of their own. Query and keys are normed and rotated by their
positions alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from braidlm.arch.mixers import BMojoFConfig
from braidlm.mixers.attention import magnitude, scaling
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.reading import Scores
from braidlm.mixers.room import reserve
from braidlm.mixers.telemetry import telemetry
from braidlm.ops.attention import Lent
from braidlm.ops.fading import Entries, FadingCache, fading_attention, with_reserve
from braidlm.ops.rope import apply_rope, rope_frequencies
from braidlm.ops.scaled import scaled
from braidlm.segments import Segments, token_positions


class BMojoFState(NamedTuple):
    """Memory of the mixer."""

    ssm: Any
    """The state of the recurrence."""
    cache: FadingCache
    """Keys and values, own and faded."""


class BMojoF(nn.Module):
    """A mixer with another one inside: `ssm`, built already, of the same input width.

    The rows of `kv_proj` are keys, then values. Positions stay absolute: a key keeps the angle that
    it was written with.
    """

    inv_freq: Tensor

    def __init__(
        self,
        config: BMojoFConfig,
        ssm: nn.Module,
        d_model: int,
        norm_eps: float,
        norm_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim, self.scale, self.window = (
            config.head_dim,
            config.softmax_scale,
            config.window,
        )
        self.rope = (config.rope_dim, config.rope_theta, scaling(config.rope_scaling))
        self.magnitude = magnitude(config.rope_scaling)
        self.factors = (config.ssm.in_multiplier, config.ssm.out_multiplier)
        self.ssm = ssm
        self.fade_proj = nn.Linear(config.ssm.width, d_model, bias=config.ssm.out_bias)
        self.q_proj = nn.Linear(d_model, config.width, bias=config.in_bias)
        self.kv_proj = nn.Linear(d_model, config.kv_width, bias=config.in_bias)
        self.faded_kv_proj = None
        if not config.tied:
            self.faded_kv_proj = nn.Linear(d_model, config.kv_width, bias=config.in_bias)
        has_norm = config.qk_norm == "head"
        self.q_norm, self.k_norm, self.faded_k_norm = (
            RMSNorm(config.head_dim, norm_eps, offset=norm_offset) if is_there else None
            for is_there in (has_norm, has_norm, has_norm and not config.tied)
        )
        self.register_buffer("inv_freq", torch.empty(config.rope_dim // 2), persistent=False)
        self._fill_frequencies()

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; recompute the rotary frequencies."""
        self.ssm.reset_parameters(std)  # pyright: ignore[reportCallIssue]
        for matrix in (self.fade_proj, self.q_proj, self.kv_proj, self.faded_kv_proj):
            if matrix is not None:
                nn.init.normal_(matrix.weight, std=std)
                if matrix.bias is not None:
                    nn.init.zeros_(matrix.bias)
        for norm in (self.q_norm, self.k_norm, self.faded_k_norm):
            if norm is not None:
                norm.reset_parameters()
        self._fill_frequencies()

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows: k, v."""
        names = ["kv_proj"] + (["faded_kv_proj"] if self.faded_kv_proj is not None else [])
        return {f"{name}.weight": (self.kv_proj.out_features // 2,) * 2 for name in names}

    def reserve(self, state: BMojoFState, n_tokens: int) -> BMojoFState:
        """Return a state with room for `n_tokens` more per document."""
        ssm = reserve(self.ssm, state.ssm, n_tokens)
        return BMojoFState(ssm, with_reserve(state.cache, n_tokens, self.window))

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell what the recurrence tells, as `ssm.*`."""
        told = telemetry(self.ssm, self.heard(x), segments)
        return {f"ssm.{name}": value for name, value in told.items()}

    def _fill_frequencies(self) -> None:
        if self.rope[0]:
            self.inv_freq.copy_(rope_frequencies(*self.rope))

    def forward(
        self, x: Tensor, segments: Segments | None, state: BMojoFState | None, return_state: bool
    ) -> tuple[Tensor, BMojoFState | None]:
        """Map x (B, T, d_model) to u (B, T, n_heads * head_dim)."""
        before, cache = (None, None) if state is None else state
        s, after = self.ssm(self.heard(x), segments, before, return_state)
        q, own, faded = self._compared(x, s, self._positions(x, segments, cache))
        u, cache = fading_attention(
            q,
            own,
            faded,
            window=self.window,
            segments=segments,
            cache=cache,
            scale=self.scale,
            return_state=return_state,
        )
        return u.flatten(2), None if cache is None else BMojoFState(after, cache)

    def heard(self, x: Tensor) -> Tensor:
        """Return what the recurrence inside reads of x (B, T, d_model)."""
        return scaled(x, self.factors[0])

    def scores(
        self,
        x: Tensor,
        segments: Segments | None,
        keys: Mapping[str, Lent],
        added: Tensor | None = None,
    ) -> Scores:
        """Return what is compared for x (B, T, d_model): stream 0 is its own keys, 1 the faded."""
        s, _ = self.ssm(self.heard(x), segments, None, False)
        q, own, faded = self._compared(x, s, self._positions(x, segments, None))
        k = torch.stack((own.k, faded.k), dim=2).flatten(1, 2)
        return Scores(q, k, self.scale, ((0, self.window), (self.window, 2 * self.window)))

    def _compared(
        self, x: Tensor, s: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Entries, Entries]:
        """Queries (B, T, heads, P), own entries, and faded ones of what the recurrence gave."""
        f = scaled(self.fade_proj(s), self.factors[1])
        q = self._heads(self.q_proj(x), self.n_heads, self.q_norm, positions)
        own = self._entries(x, self.kv_proj, self.k_norm, positions)
        faded = self._entries(
            f, self.faded_kv_proj or self.kv_proj, self.faded_k_norm or self.k_norm, positions
        )
        return q, own, faded

    def _positions(
        self, x: Tensor, segments: Segments | None, cache: FadingCache | None
    ) -> Tensor | None:
        """Positions (B, T) in the whole document; None where nobody asks."""
        if not self.rope[0]:
            return None
        offset = None if cache is None else cache.seen.length
        return token_positions(x.shape[0], x.shape[1], segments, offset, x.device)

    def _entries(
        self, x: Tensor, project: nn.Module, norm: RMSNorm | None, positions: Tensor | None
    ) -> Entries:
        """Keys and values (B, T, n_kv_heads, head_dim) of what x (B, T, d_model) holds."""
        k, v = project(x).chunk(2, dim=-1)
        v = v.unflatten(-1, (self.n_kv_heads, self.head_dim))
        return Entries(self._heads(k, self.n_kv_heads, norm, positions), v)

    def _heads(
        self, x: Tensor, n_heads: int, norm: RMSNorm | None, positions: Tensor | None
    ) -> Tensor:
        """Projected (B, T, heads * P) -> (B, T, heads, P), normed and rotated."""
        x = x.unflatten(-1, (n_heads, self.head_dim))
        x = x if norm is None else norm(x)
        if positions is None:
            return x
        return apply_rope(x, positions, self.inv_freq, self.magnitude)
