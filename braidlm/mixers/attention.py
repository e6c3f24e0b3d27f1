"""Causal softmax attention with grouped key/value heads and rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidlm.arch.mixers import AttentionConfig, RopeScaling
from braidlm.mixers.norm import RMSNorm
from braidlm.ops.attention import KVCache, attention, reserve
from braidlm.ops.position_scale import LogScale, StepScale, position_scale
from braidlm.ops.rope import LinearScaling, Llama3Scaling, apply_rope, rope_frequencies
from braidlm.ops.scaled import scaled
from braidlm.segments import Segments, token_positions


class Attention(nn.Module):
    """Attention whose state is a `KVCache` of rotated keys and values, one per document.

    Positions stay absolute under a window: a key keeps the angle that it was written with, and so
    do the sinks, from which the distance grows.
    """

    inv_freq: Tensor
    sink_logits: nn.Parameter | None

    def __init__(
        self, config: AttentionConfig, d_model: int, norm_eps: float, norm_offset: float = 0.0
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim, self.v_head_dim = config.head_dim, config.v_head_dim
        self.scale, self.window, self.n_sinks = config.softmax_scale, config.window, config.n_sinks
        self.rope = (config.rope_dim, config.rope_theta, scaling(config.rope_scaling))
        self.widths = [
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
            config.n_kv_heads * config.v_head_dim,
        ]
        if config.gate_width:
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

    def _fill_frequencies(self) -> None:
        if self.rope[0]:
            self.inv_freq.copy_(rope_frequencies(*self.rope))

    def forward(
        self, x: Tensor, segments: Segments | None, state: KVCache | None, return_state: bool
    ) -> tuple[Tensor, KVCache | None]:
        """Map x (B, T, d_model) to u (B, T, n_heads * v_head_dim)."""
        return self.projected(self.in_proj(x), segments, state, return_state)

    def projected(
        self, p: Tensor, segments: Segments | None, state: KVCache | None, return_state: bool
    ) -> tuple[Tensor, KVCache | None]:
        """Go on from p (B, T, in_proj_width), what the input projection gives."""
        batch, length, _ = p.shape
        q, k, v, *gate = p.split(self.widths, dim=-1)
        q, k = self._normed(q, scaled(k, self.key_multiplier))
        v = v.view(batch, length, self.n_kv_heads, self.v_head_dim)
        if self.rope[0] or self.position_scale is not None:
            offset = None if state is None else state.length
            positions = token_positions(batch, length, segments, offset, p.device)
            q, k = self._placed(q, k, positions)
        u, new_state = attention(
            q,
            k,
            v,
            segments=segments,
            cache=state,
            scale=self.scale,
            window=self.window,
            n_sinks=self.n_sinks,
            sink_logits=self.sink_logits,
            softcap=self.softcap,
            return_state=return_state,
        )
        if gate:  # one factor for a whole head is spread over its channels
            u = u * gate[0].view(batch, length, self.n_heads, -1).sigmoid()
        return u.flatten(2), new_state

    def _placed(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tell q, k (B, T, heads, P) their positions (B, T): by angles, and by queries' lengths."""
        if self.rope[0]:
            q = apply_rope(q, positions, self.inv_freq)
            k = apply_rope(k, positions, self.inv_freq)
        if self.position_scale is not None:
            factor = position_scale(positions, self.position_scale, q.dtype)
            q = q * factor[..., None, None]
        return q, k

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Projected q, k (B, T, heads * P) -> (B, T, heads, P), normed over P or before the cut."""
        if self.q_norm is not None and self.k_norm is not None and not self.norms_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.unflatten(-1, (self.n_heads, self.head_dim))
        k = k.unflatten(-1, (self.n_kv_heads, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None and self.norms_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k


def scaling(s: RopeScaling | None) -> LinearScaling | Llama3Scaling | None:
    """Return a declared stretching as `ops.rope` takes it."""
    if s is None:
        return None
    if s.kind == "linear":
        return LinearScaling(s.factor)
    return Llama3Scaling(s.factor, s.low_freq_factor, s.high_freq_factor, s.original_length)


def _position_scale(config: AttentionConfig) -> LogScale | StepScale | None:
    s = config.position_scale
    if s is None:
        return None
    if s.kind == "log":
        return LogScale(s.length, s.first)
    return StepScale(s.length, s.first, s.beta)
