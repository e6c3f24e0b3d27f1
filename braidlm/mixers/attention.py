"""Causal softmax attention with grouped key/value heads and rotary positions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from braidlm.arch.mixers import AttentionConfig, RopeScaling
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.reading import Scores
from braidlm.ops.attention import KVCache, Lent, attention, kept, lend, newest, reserve
from braidlm.ops.position_scale import LogScale, StepScale, position_scale
from braidlm.ops.rope import (
    Angles,
    LinearScaling,
    Llama3Scaling,
    Scaling,
    YarnScaling,
    apply_rope,
    rope_angles,
    rope_frequencies,
    rotate,
)
from braidlm.ops.rows import Read, product
from braidlm.ops.scaled import scaled
from braidlm.segments import Segments, token_positions


class Attention(nn.Module):
    """Attention whose state is a `KVCache` of rotated keys and values, one per document.

    Positions stay absolute under a window: a key keeps the angle that it was written with, and so
    do the sinks, from which the distance grows. A borrower (`kv_from`) has no keys, values and
    cache of its own: it asks what another module has written for the same tokens.
    """

    projects_first = True
    inv_freq: Tensor
    sink_logits: nn.Parameter | None

    def __init__(
        self,
        config: AttentionConfig,
        d_model: int,
        norm_eps: float,
        norm_offset: float = 0.0,
        lends_as: str = "",
    ) -> None:
        super().__init__()
        self.kv_from, self.lends_as = config.kv_from or "", lends_as
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim, self.v_head_dim = config.head_dim, config.v_head_dim
        self.scale, self.window, self.n_sinks = config.softmax_scale, config.window, config.n_sinks
        self.rope = (config.rope_dim, config.rope_theta, scaling(config.rope_scaling))
        self.magnitude = magnitude(config.rope_scaling)
        self.widths = [config.n_heads * config.head_dim]
        if not self.kv_from:
            self.widths += [config.n_kv_heads * w for w in (config.head_dim, config.v_head_dim)]
        self.has_gate = bool(config.gate_width)
        if self.has_gate:
            self.widths.append(config.gate_width)
        self.in_proj = nn.Linear(d_model, config.in_proj_width, bias=config.in_bias)
        self.key_multiplier = config.key_multiplier
        self.q_norm, self.k_norm = (
            RMSNorm(width, norm_eps, offset=norm_offset) if width else None
            for width in config.qk_norm_widths
        )
        self.norms_heads = config.qk_norm == "head"
        self.softcap, self.position_scale = config.softcap, _position_scale(config)
        logits = torch.zeros(config.n_heads) if config.sink_logit else None
        self.register_parameter("sink_logits", None if logits is None else nn.Parameter(logits))
        self.register_buffer("inv_freq", torch.empty(config.rope_dim // 2), persistent=False)
        self._fill_frequencies()

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; recompute the rotary frequencies."""
        nn.init.normal_(self.in_proj.weight, std=std)
        if self.in_proj.bias is not None:
            nn.init.zeros_(self.in_proj.bias)
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                norm.reset_parameters()
        if self.sink_logits is not None:
            nn.init.zeros_(self.sink_logits)
        self._fill_frequencies()

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows."""
        return {"in_proj.weight": tuple(self.widths)}

    def reserve(self, state: KVCache, n_tokens: int) -> KVCache:
        """Return a cache with room for `n_tokens` more per document."""
        span = None if self.window is None else self.window + self.n_sinks
        return reserve(state, n_tokens, span)

    def shorten(self, state: KVCache, n_tokens: int) -> KVCache:
        """Return a cache of the last `n_tokens` of each document at most; a window's is one.

        Keys are turned back, so that the oldest that is left stands at position 0.
        """
        if self.window is not None:
            return state
        kept = newest(state, n_tokens)
        if not self.rope[0]:
            return kept
        gone = (kept.length - state.length)[:, None].expand(kept.k.shape[:2])
        return kept._replace(k=apply_rope(kept.k, gone, self.inv_freq))

    def _fill_frequencies(self) -> None:
        if self.rope[0]:
            self.inv_freq.copy_(rope_frequencies(*self.rope))

    @property
    def shares_keys(self) -> bool:
        """Whether `forward` takes keys that are lent, or lends some."""
        return bool(self.kv_from or self.lends_as)

    def forward(
        self,
        x: Tensor,
        segments: Segments | None,
        state: KVCache | None,
        return_state: bool,
        keys: dict[str, Lent] | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """Map x (B, T, d_model) to u (B, T, n_heads * v_head_dim).

        `keys` holds what earlier sublayers of this call have lent, by letter; a lender adds to it.
        """
        return self.projected(self.in_proj(x), segments, state, return_state, keys)

    def projected(
        self,
        p: Tensor,
        segments: Segments | None,
        state: KVCache | None,
        return_state: bool,
        keys: dict[str, Lent] | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """Go on from p (B, T, in_proj_width), what the input projection gives."""
        q, own, gate = self._parts(p)
        if self.kv_from:
            assert keys is not None
            k, v, cache = keys[self.kv_from]
            positions = self._positions(p, segments, cache)
            q = self._asking(q, positions, self._angles(positions, p))
            u, _ = self._attend(q, k, v, segments, cache, False)
            return self._gated(u, gate), None
        positions = self._positions(p, segments, state)
        angles = self._angles(positions, p)
        q, k = self._asking(q, positions, angles), self._asked(own[0], angles)
        v = own[1].unflatten(-1, (self.n_kv_heads, self.v_head_dim))
        before = kept(state, p.shape[1], self.window) if self.lends_as else None
        u, after = self._attend(q, k, v, segments, state, return_state)
        if self.lends_as and keys is not None:
            keys[self.lends_as] = lend(k, v, before, after, self.window)
        return self._gated(u, gate), after

    def reads_rows(self, is_step: bool, state: KVCache | None) -> bool:
        """Whether `from_rows` can go on from this state: one token of each document."""
        return is_step and state is not None and not self.shares_keys

    def from_rows(self, read: Read, state: KVCache) -> tuple[Read, KVCache | None]:
        """Take one token per row, before its norm, to u (n, n_heads * v_head_dim)."""
        p = product(read, self.in_proj.weight, self.in_proj.bias)
        u, after = self.projected(p[:, None], None, state, True)
        return Read(u[:, 0]), after

    def _parts(self, p: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Cut what is projected: q; k and v, unless they are lent; the gate or None."""
        q, *rest = p.split(self.widths, dim=-1) if len(self.widths) > 1 else [p]
        return q, rest[:2] if not self.kv_from else [], rest[-1] if self.has_gate else None

    def _positions(
        self, p: Tensor, segments: Segments | None, cache: KVCache | None
    ) -> Tensor | None:
        """Positions (B, T) behind those of the cache; None where nobody asks."""
        offset = None if cache is None else cache.length
        batch, length, _ = p.shape
        if not self.rope[0] and self.position_scale is None:
            return None
        return token_positions(batch, length, segments, offset, p.device)

    def scores(
        self,
        x: Tensor,
        segments: Segments | None,
        keys: Mapping[str, Lent],
        added: Tensor | None = None,
    ) -> Scores:
        """Return what is compared for x (B, T, d_model), see `mixers.reading`."""
        p = self.in_proj(x)
        q, own, _ = self._parts(p if added is None else p + added)
        positions = self._positions(p, segments, None)
        angles = self._angles(positions, p)
        k = keys[self.kv_from].k if self.kv_from else self._asked(own[0], angles)
        rules = (((0, self.window),), self.n_sinks, self.sink_logits, self.softcap)
        return Scores(self._asking(q, positions, angles), k, self.scale, *rules)

    def _angles(self, positions: Tensor | None, p: Tensor) -> Angles | None:
        """What rotates queries and keys that are cut from p; None where nothing does."""
        if positions is None or not self.rope[0]:
            return None
        return rope_angles(positions, self.inv_freq, p.dtype, self.magnitude)

    def _asking(self, q: Tensor, positions: Tensor | None, angles: Angles | None) -> Tensor:
        """Projected (B, T, heads * P) -> normed queries (B, T, heads, P).

        They are told their positions (B, T): by angles, and by their lengths.
        """
        q = self._normed(q, self.q_norm, self.n_heads)
        q = q if angles is None else rotate(q, angles)
        if positions is None or self.position_scale is None:
            return q
        return q * position_scale(positions, self.position_scale, q.dtype)[..., None, None]

    def _asked(self, k: Tensor, angles: Angles | None) -> Tensor:
        """Projected (B, T, heads * P) -> keys (B, T, heads, P)."""
        k = self._normed(scaled(k, self.key_multiplier), self.k_norm, self.n_kv_heads)
        return k if angles is None else rotate(k, angles)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Segments | None,
        cache: KVCache | None,
        return_state: bool,
    ) -> tuple[Tensor, KVCache | None]:
        return attention(
            q,
            k,
            v,
            segments=segments,
            cache=cache,
            scale=self.scale,
            window=self.window,
            n_sinks=self.n_sinks,
            sink_logits=self.sink_logits,
            softcap=self.softcap,
            return_state=return_state,
        )

    def _gated(self, u: Tensor, gate: Tensor | None) -> Tensor:
        """u (B, T, heads, Dv) -> (B, T, heads * Dv); a factor of a head is for all its channels."""
        if gate is not None:
            u = u * gate.unflatten(-1, (self.n_heads, -1)).sigmoid()
        return u.flatten(2)

    def _normed(self, x: Tensor, norm: RMSNorm | None, n_heads: int) -> Tensor:
        """Projected (B, T, heads * P) -> (B, T, heads, P), normed over P or before the cut."""
        if norm is not None and not self.norms_heads:
            x = norm(x)
        x = x.unflatten(-1, (n_heads, self.head_dim))
        return norm(x) if norm is not None and self.norms_heads else x


def magnitude(s: RopeScaling | None) -> float:
    """Return the factor on rotated channels of a declared stretching."""
    return 1.0 if s is None else s.magnitude


def scaling(s: RopeScaling | None) -> Scaling | None:
    """Return a declared stretching as `ops.rope` takes it."""
    if s is None:
        return None
    if s.kind == "linear":
        return LinearScaling(s.factor)
    if s.kind == "yarn":
        return YarnScaling(s.factor, s.original_length, s.beta_fast, s.beta_slow, s.truncate)
    return Llama3Scaling(s.factor, s.low_freq_factor, s.high_freq_factor, s.original_length)


def _position_scale(config: AttentionConfig) -> LogScale | StepScale | None:
    s = config.position_scale
    if s is None:
        return None
    if s.kind == "log":
        return LogScale(s.length, s.first)
    return StepScale(s.length, s.first, s.beta)
