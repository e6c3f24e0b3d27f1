"""Declaration of causal softmax attention with grouped key/value heads."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.mixers.base import (
    MixerConfig,
    Role,
    backward_attention_flops,
    causal_attention_flops,
    executed_attention_flops,
    matmul_flops,
)
from braidlm.arch.mixers.rope_scaling import RopeScaling


class PositionScale(Config):
    """A factor on a query's scores that grows with its position t in the document."""

    kind: Literal["log", "steps"] = "log"
    """log: log(t + length) / log(length) (HypeNet); steps: 1 + beta log(1 + floor(t / length))."""
    length: float = Field(gt=1)
    """Tokens. log: 500 in HypeNet 2B; steps: those of a step, 8192 in Llama 4."""
    beta: float = Field(default=0.1, gt=0)
    """steps: growth. Default: 0.1 (Llama 4, Ministral 3)."""
    first: int = Field(default=0, ge=0, le=1)
    """Number t of the first token: 1 in Llama 4. Default: 0 (HypeNet, Ministral 3)."""


class AttentionConfig(MixerConfig):
    """Causal attention: u = softmax(q k^T * scale) v, heads concatenated."""

    role: ClassVar[Role] = "attention"
    short_forms: ClassVar[tuple[str, ...]] = ("width",)
    kind: Literal["attention"] = "attention"
    """The mixer's name."""
    n_heads: int = Field(gt=0)
    """Query heads. Default: width / head_dim; `width` (default d_model) may be given instead."""
    n_kv_heads: int = Field(gt=0)
    """Key/value heads; divides n_heads. Default: n_heads."""
    head_dim: int = Field(gt=0)
    """Channels of a query or key head. Default: 64, or d_model if that is smaller."""
    v_head_dim: int = Field(gt=0)
    """Channels of a value head. Default: head_dim."""
    position: Literal["rope", "none"] = "rope"
    """Position encoding of queries and keys. Default: rope."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies (Su et al. 2021)."""
    rope_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each head's channels that is rotated."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the frequencies. Default: none."""
    softmax_scale: float | None = Field(default=None, gt=0)
    """Factor on the scores. Default: head_dim ** -0.5."""
    position_scale: PositionScale | None = None
    """A further factor that grows with the query's position. Default: none."""
    window: int | None = Field(default=None, gt=0)
    """Tokens that a query sees, itself included. Default: all; for letter W 512 (Bae et al.)."""
    n_sinks: int = Field(default=0, ge=0)
    """First tokens of each document that stay visible under a window (StreamingLLM). Default: 0."""
    sink_logit: bool = False
    """Whether each query head has a learned logit in the softmax's denominator (gpt-oss)."""
    softcap: float | None = Field(default=None, gt=0)
    """Scores become softcap * tanh(score / softcap): 50 in Gemma 2. Default: none."""
    qk_norm: Literal["none", "head", "width"] = "none"
    """RMSNorm of queries and keys before the rotation: of each head (Qwen3) or of all (OLMo)."""
    output_gate: Literal["none", "head", "channel"] = "none"
    """u times sigmoid(W_g x), a factor per head or per channel (Qwen3-Next). Default: none."""
    in_bias: bool = False
    """Whether the q, k, v and gate projections have a bias (Qwen2). Default: false."""
    key_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the keys as they leave their projection (Falcon-H1). Default: 1."""

    kv_from: str | None = None
    """Letter of an earlier attention whose keys and values this one has (Hymba). Default: none."""

    @model_validator(mode="after")
    def _keys_of_another_are_as_they_are(self) -> Self:
        if self.kv_from is not None and self.key_multiplier != 1.0:
            raise ValueError(
                f"key_multiplier = {self.key_multiplier}: belongs to the letter that kv_from names"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads = {self.n_kv_heads}: must divide n_heads = {self.n_heads}"
            )
        if self.position == "rope" and self.rope_dim % 2:
            raise ValueError(
                f"rope_fraction = {self.rope_fraction}: rotates {self.rope_dim} of "
                f"head_dim = {self.head_dim} channels, which must be an even number"
            )
        if self.rope_scaling is not None:
            self.rope_scaling.check_base(self.rope_theta)
        if self.n_sinks and self.window is None:
            raise ValueError(
                f"n_sinks = {self.n_sinks}: needs a window; without one every token stays visible"
            )
        return self

    @property
    def rope_dim(self) -> int:
        """Channels of each head that are rotated."""
        return int(self.head_dim * self.rope_fraction) if self.position == "rope" else 0

    @property
    def width(self) -> int:
        """Channels of u: n_heads * v_head_dim."""
        return self.n_heads * self.v_head_dim

    @property
    def summary(self) -> str:
        """Heads, their widths and the position encoding."""
        values = "" if self.v_head_dim == self.head_dim else f" (values {self.v_head_dim})"
        shared = "" if self.n_kv_heads == self.n_heads else f", {self.n_kv_heads} kv"
        position = "" if self.position == "none" else ", rope"
        sinks = f" + {self.n_sinks} sinks" if self.n_sinks else ""
        window = "" if self.window is None else f", window {self.window}{sinks}"
        heads = f"{self.n_heads} heads of {self.head_dim}{values}{shared}"
        return f"attention, {heads}{window}{position}{self._options}"

    @property
    def _options(self) -> str:
        norm = {"none": "", "head": ", qk norm", "width": ", qk norm over all heads"}[self.qk_norm]
        sink = ", sink logit" if self.sink_logit else ""
        cap = "" if self.softcap is None else f", cap {self.softcap:g}"
        gate = "" if self.output_gate == "none" else f", gate per {self.output_gate}"
        norm += "" if self.position_scale is None else ", scale by position"
        lent = "" if self.kv_from is None else f", keys of {self.kv_from}"
        return norm + sink + cap + gate + (", bias" if self.in_bias else "") + lent

    @property
    def n_norm_groups(self) -> int:
        """One group per head."""
        return self.n_heads

    @property
    def kv_width(self) -> int:
        """Channels of one token's own keys and values together."""
        return 0 if self.kv_from else self.n_kv_heads * (self.head_dim + self.v_head_dim)

    @property
    def qk_norm_widths(self) -> tuple[int, int]:
        """Channels of the norms of queries and of keys; 0 without them."""
        n_q, n_k = {"none": (0, 0), "head": (1, 1), "width": (self.n_heads, self.n_kv_heads)}[
            self.qk_norm
        ]
        return n_q * self.head_dim, 0 if self.kv_from else n_k * self.head_dim

    @property
    def gate_width(self) -> int:
        """Channels of the output gate."""
        return {"none": 0, "head": self.n_heads, "channel": self.width}[self.output_gate]

    @property
    def lora_widths(self) -> tuple[int, ...]:
        """Each of q, k, v and the gate by itself."""
        head_widths = () if self.kv_from else (self.head_dim, self.v_head_dim)
        gate = (self.gate_width,) if self.gate_width else ()
        return (self.n_heads * self.head_dim, *(self.n_kv_heads * w for w in head_widths), *gate)

    @property
    def in_proj_width(self) -> int:
        """Outputs of the input projection: q, k, v, gate; of a borrower q, gate."""
        return self.n_heads * self.head_dim + self.kv_width + self.gate_width

    def n_params(self, d_model: int) -> int:
        """Parameters of the q, k, v and gate projections, of both norms and of the sink logits."""
        projections = (d_model + self.in_bias) * self.in_proj_width
        return projections + sum(self.qk_norm_widths) + self.n_heads * self.sink_logit

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of one token's keys and values."""
        return self.kv_width * dtype_bytes

    def kv_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of the keys and values that are held: under a window those of its span at most."""
        return self.n_held(n_tokens) * self.kv_bytes_per_token(dtype_bytes)

    def n_held(self, n_tokens: int) -> int:
        """Tokens of `n_tokens` that the last one sees, and that the cache holds."""
        return n_tokens if self.window is None else min(n_tokens, self.window + self.n_sinks)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Projections, and the score and value products of the pairs that are seen."""
        return self._projection_flops(d_model, n_tokens) + causal_attention_flops(
            n_tokens,
            self.n_heads,
            self.head_dim,
            self.v_head_dim,
            window=self.window,
            n_sinks=self.n_sinks,
        )

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Projections, and all scores of each call: the counter does not know what is hidden."""
        scores = executed_attention_flops(
            n_tokens,
            self.n_heads,
            self.head_dim,
            self.v_head_dim,
            window=self.window,
            n_sinks=self.n_sinks,
            sink_logit=self.sink_logit,
            softcap=self.softcap is not None,
        )
        return batch * (self._projection_flops(d_model, n_tokens) + scores)

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Two products for each projection; the fused kernel's own for the scores."""
        scores = backward_attention_flops(
            n_tokens,
            self.n_heads,
            self.head_dim,
            self.v_head_dim,
            window=self.window,
            n_sinks=self.n_sinks,
            sink_logit=self.sink_logit,
            softcap=self.softcap is not None,
        )
        return batch * (2 * self._projection_flops(d_model, n_tokens) + scores)

    def _projection_flops(self, d_model: int, n_tokens: int) -> int:
        return matmul_flops(n_tokens, (d_model, self.in_proj_width))
