"""Multi-head latent attention: all heads' keys and values come from one latent per token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from braidlm.arch.mixers import MLAConfig
from braidlm.mixers.attention import magnitude, scaling
from braidlm.mixers.norm import RMSNorm
from braidlm.mixers.reading import Scores
from braidlm.mixers.untouched import weight_of
from braidlm.ops.attention import KVCache, Lent, reserve
from braidlm.ops.latent import Expansion, latent_attention
from braidlm.ops.rope import apply_rope, rope_frequencies
from braidlm.segments import Segments, token_positions


class MLA(nn.Module):
    """Attention whose state is a `KVCache` of one latent and one shared key per token.

    The rows of `kv_up` are the keys of all heads, then their values.
    """

    inv_freq: Tensor

    def __init__(
        self, config: MLAConfig, d_model: int, norm_eps: float, norm_offset: float = 0.0
    ) -> None:
        super().__init__()
        norm_eps = norm_eps if config.norm_eps is None else config.norm_eps
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.nope, self.rank = config.qk_nope_head_dim, config.kv_lora_rank
        self.scale = config.softmax_scale
        self.rope = (config.rope_dim, config.rope_theta, scaling(config.rope_scaling))
        self.magnitude = magnitude(config.rope_scaling)
        self.widths = [config.query_width, config.cache_width]
        n_keys, n_values = config.n_heads * self.nope, config.width
        self.up_parts = (n_keys, n_values)
        self.in_proj = nn.Linear(d_model, config.in_proj_width, bias=False)
        self.q_norm = self.q_up = None
        if config.q_lora_rank is not None:
            self.q_norm = RMSNorm(config.q_lora_rank, norm_eps, offset=norm_offset)
            self.q_up = nn.Linear(config.q_lora_rank, self.n_heads * self.head_dim, bias=False)
        self.kv_norm = RMSNorm(config.kv_lora_rank, norm_eps, offset=norm_offset)
        self.kv_up = nn.Linear(config.kv_lora_rank, n_keys + n_values, bias=False)
        self.register_buffer("inv_freq", torch.empty(config.rope_dim // 2), persistent=False)
        self._fill_frequencies()

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; recompute the rotary frequencies."""
        for matrix in (self.in_proj, self.q_up, self.kv_up):
            if matrix is not None:
                nn.init.normal_(matrix.weight, std=std)
        for norm in (self.q_norm, self.kv_norm):
            if norm is not None:
                norm.reset_parameters()
        self._fill_frequencies()

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows."""
        shared = self.widths[1] - self.rank
        into = (self.widths[0], self.rank, *([shared] if shared else []))
        return {"in_proj.weight": into, "kv_up.weight": self.up_parts}

    def reserve(self, state: KVCache, n_tokens: int) -> KVCache:
        """Return a cache with room for `n_tokens` more per document."""
        return reserve(state, n_tokens)

    def _fill_frequencies(self) -> None:
        if self.rope[0]:
            self.inv_freq.copy_(rope_frequencies(*self.rope))

    def _turned(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate (B, T, heads, P)."""
        return apply_rope(x, positions, self.inv_freq, self.magnitude)

    def forward(
        self, x: Tensor, segments: Segments | None, state: KVCache | None, return_state: bool
    ) -> tuple[Tensor, KVCache | None]:
        """Map x (B, T, d_model) to u (B, T, n_heads * v_head_dim)."""
        q, entries = self._compared(self.in_proj(x), segments, state)
        u, new_state = latent_attention(
            q,
            entries,
            weight_of(self.kv_up, "kv_up"),
            rank=self.rank,
            segments=segments,
            cache=state,
            scale=self.scale,
            return_state=return_state,
        )
        return u.flatten(2), new_state

    def scores(
        self,
        x: Tensor,
        segments: Segments | None,
        keys: Mapping[str, Lent],
        added: Tensor | None = None,
    ) -> Scores:
        """Return what is compared for x (B, T, d_model), every head's keys made of the latents."""
        p = self.in_proj(x)
        q, entries = self._compared(p if added is None else p + added, segments, None)
        k, _ = Expansion.of(weight_of(self.kv_up, "kv_up"), self.n_heads, self.nope).expanded(
            entries
        )
        return Scores(q, k, self.scale)

    def _compared(
        self, p: Tensor, segments: Segments | None, state: KVCache | None
    ) -> tuple[Tensor, Tensor]:
        """Projected (B, T, widths) -> queries (B, T, heads, P), entries (B, T, rank + shared)."""
        q, entry = p.split(self.widths, dim=-1)
        latent, shared = entry.tensor_split([self.rank], dim=-1)
        if self.q_norm is not None and self.q_up is not None:
            q = self.q_up(self.q_norm(q))
        q = q.unflatten(-1, (self.n_heads, self.head_dim))
        if self.rope[0]:
            offset = None if state is None else state.length
            positions = token_positions(p.shape[0], p.shape[1], segments, offset, p.device)
            own, rotated = q.tensor_split([self.nope], dim=-1)
            q = torch.cat((own, self._turned(rotated, positions)), dim=-1)
            shared = self._turned(shared[:, :, None], positions)[:, :, 0]
        return q, torch.cat((self.kv_norm(latent).to(q.dtype), shared.to(q.dtype)), dim=-1)
