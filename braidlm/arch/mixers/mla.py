"""Declaration of multi-head latent attention: all heads' keys and values from one latent."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import (
    MixerConfig,
    Role,
    backward_attention_flops,
    causal_attention_flops,
    executed_attention_flops,
    matmul_flops,
)
from braidlm.arch.mixers.rope_scaling import RopeScaling


class MLAConfig(MixerConfig):
    """Latent attention: k = [U_k c, r], v = U_v c, with c = RMSNorm(W_c x) and r shared by heads.

    Source: DeepSeek-V2 (arXiv 2405.04434), eqs. 9-19.
    """

    role: ClassVar[Role] = "attention"
    kind: Literal["mla"] = "mla"
    """The mixer's name."""
    n_heads: int = Field(gt=0)
    """Heads. Default: d_model / v_head_dim."""
    kv_lora_rank: int = Field(gt=0)
    """Channels of the latent that the cache holds. Default: 4 v_head_dim (DeepSeek-V2)."""
    q_lora_rank: int | None = Field(default=None, gt=0)
    """Channels of the queries' latent. Default: none, queries come from x; 1536 in DeepSeek-V3."""
    qk_nope_head_dim: int = Field(gt=0)
    """Channels of a query or key head without a position. Default: v_head_dim."""
    qk_rope_head_dim: int = Field(ge=0)
    """Channels of a head whose key all heads share. Default: v_head_dim / 2, made even; 0: none."""
    v_head_dim: int = Field(gt=0)
    """Channels of a value head. Default: 64, or d_model if that is smaller."""
    position: Literal["rope", "none"] = "rope"
    """Whether the shared key is rotated; none as in Kimi Linear. Default: rope."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies (Su et al. 2021)."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the frequencies. Default: none."""
    softmax_scale: float | None = Field(default=None, gt=0)
    """Factor on the scores. Default: (qk_nope_head_dim + qk_rope_head_dim) ** -0.5."""
    norm_eps: float | None = Field(default=None, gt=0)
    """Added to the mean square in the norms of the latents. Default: the model's; Kimi: 1e-6."""

    @model_validator(mode="after")
    def _channels_make_pairs(self) -> Self:
        if self.rope_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim = {self.qk_rope_head_dim}: must be an even number, "
                "or give position = 'none'"
            )
        if self.rope_scaling is not None:
            self.rope_scaling.check_base(self.rope_theta)
        return self

    @property
    def rope_dim(self) -> int:
        """Channels of each head that are rotated."""
        return self.qk_rope_head_dim if self.position == "rope" else 0

    @property
    def head_dim(self) -> int:
        """Channels of a query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def width(self) -> int:
        """Channels of u: n_heads * v_head_dim."""
        return self.n_heads * self.v_head_dim

    @property
    def summary(self) -> str:
        """Heads, their widths, the latents and the position encoding."""
        heads = f"{self.n_heads} heads of {self.qk_nope_head_dim} + {self.qk_rope_head_dim} shared"
        queries = "" if self.q_lora_rank is None else f", queries {self.q_lora_rank}"
        position = ", rope" if self.rope_dim else ""
        return (
            f"latent attention, {heads} (values {self.v_head_dim}), latent {self.kv_lora_rank}"
            f"{queries}{position}"
        )

    @property
    def n_norm_groups(self) -> int:
        """One group per head."""
        return self.n_heads

    @property
    def cache_width(self) -> int:
        """Channels that the cache holds of a token: the latent and the shared key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def query_width(self) -> int:
        """What the input projection yields for queries: their latent, or the queries themselves."""
        return self.q_lora_rank or self.n_heads * self.head_dim

    @property
    def in_proj_width(self) -> int:
        """Outputs of the input projection: queries or their latent, latent, shared key."""
        return self.query_width + self.cache_width

    def n_params(self, d_model: int) -> int:
        """Parameters of the projections and of the norms of the latents."""
        weights = sum(a * b for a, b in self._matrices(d_model))
        return weights + self.kv_lora_rank + (self.q_lora_rank or 0)

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of one token's latent and shared key; none of them once per head."""
        return self.cache_width * dtype_bytes

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Projections, and the products of expanded queries, keys and values of all pairs seen."""
        return matmul_flops(n_tokens, *self._matrices(d_model)) + causal_attention_flops(
            n_tokens, self.n_heads, self.head_dim, self.v_head_dim
        )

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Projections, and all scores of the call over expanded keys and values."""
        scores = executed_attention_flops(n_tokens, self.n_heads, self.head_dim, self.v_head_dim)
        return batch * (matmul_flops(n_tokens, *self._matrices(d_model)) + scores)

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Two products for each projection; the fused kernel's own for the scores."""
        scores = backward_attention_flops(n_tokens, self.n_heads, self.head_dim, self.v_head_dim)
        return batch * (2 * matmul_flops(n_tokens, *self._matrices(d_model)) + scores)

    def _matrices(self, d_model: int) -> tuple[tuple[int, int], ...]:
        up = (self.kv_lora_rank, self.n_heads * (self.qk_nope_head_dim + self.v_head_dim))
        queries = () if self.q_lora_rank is None else ((self.q_lora_rank, self._all_queries),)
        return ((d_model, self.in_proj_width), up, *queries)

    @property
    def _all_queries(self) -> int:
        return self.n_heads * self.head_dim
