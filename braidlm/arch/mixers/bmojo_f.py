"""Declaration of B'MOJO-F: one softmax over a window of tokens and what a recurrence made of those
before it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import MixerConfig, Role, causal_attention_flops, matmul_flops
from braidlm.arch.mixers.gated_deltanet import GatedDeltaNetConfig
from braidlm.arch.mixers.kda import KDAConfig
from braidlm.arch.mixers.mamba1 import Mamba1Config
from braidlm.arch.mixers.mamba2 import Mamba2Config
from braidlm.arch.mixers.rope_scaling import RopeScaling
from braidlm.arch.mixers.tiles import fading_pairs

Recurrence = Annotated[
    GatedDeltaNetConfig | KDAConfig | Mamba1Config | Mamba2Config, Field(discriminator="kind")
]


class BMojoFConfig(MixerConfig):
    """Keys and values of the last w tokens x, and of f = W_f SSM(x) at the w tokens before them.

    Source: B'MOJO (Zancato et al. 2024, arXiv 2407.06324); AWS's Hybrid Model Factory.
    """

    role: ClassVar[Role] = "attention"
    short_forms: ClassVar[tuple[str, ...]] = ("width",)
    kind: Literal["bmojo_f"] = "bmojo_f"
    """The mixer's name."""
    n_heads: int = Field(gt=0)
    """Query heads. Default: width / head_dim; `width` (default d_model) may be given instead."""
    n_kv_heads: int = Field(gt=0)
    """Key/value heads; divides n_heads. Default: n_heads."""
    head_dim: int = Field(gt=0)
    """Channels of a head. Default: 64, or d_model if that is smaller."""
    window: int = Field(default=2048, gt=0)
    """Tokens seen as they are, itself included, and again as many faded ones. Default: 2048."""
    tied: bool = True
    """Whether one W_k, W_v (and norm of keys) reads tokens and faded tokens. Default: true."""
    position: Literal["rope", "none"] = "rope"
    """Position encoding of queries and of all keys. Default: rope."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies (Su et al. 2021)."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the frequencies. Default: none."""
    softmax_scale: float | None = Field(default=None, gt=0)
    """Factor on the scores. Default: head_dim ** -0.5."""
    qk_norm: Literal["none", "head"] = "none"
    """RMSNorm of each head's queries and keys before the rotation (Qwen3). Default: none."""
    in_bias: bool = False
    """Whether the q, k and v projections have a bias (Qwen2). Default: false."""
    ssm: Recurrence
    """The mixer whose projected output the faded keys and values read. Default: kind mamba2."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads = {self.n_kv_heads}: must divide n_heads = {self.n_heads}"
            )
        if self.rope_dim % 2:
            raise ValueError(
                f"head_dim = {self.head_dim}: must be an even number, or give position = 'none'"
            )
        if self.rope_scaling is not None:
            self.rope_scaling.check_base(self.rope_theta)
        return self

    @property
    def rope_dim(self) -> int:
        """Channels of each head that are rotated."""
        return self.head_dim if self.position == "rope" else 0

    @property
    def width(self) -> int:
        """Channels of u: n_heads * head_dim."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Channels of one token's keys and values together, of one kind."""
        return 2 * self.n_kv_heads * self.head_dim

    @property
    def summary(self) -> str:
        """Heads, window, position encoding, and the recurrence that fades."""
        shared = "" if self.n_kv_heads == self.n_heads else f", {self.n_kv_heads} kv"
        position = "" if self.position == "none" else ", rope"
        norm = "" if self.qk_norm == "none" else ", qk norm"
        options = norm + (", bias" if self.in_bias else "") + ("" if self.tied else ", untied")
        heads = f"{self.n_heads} heads of {self.head_dim}{shared}"
        window = f", window {self.window} + {self.window} faded"
        return f"B'MOJO-F, {heads}{window}{position}{options}, faded by {self.ssm.summary}"

    @property
    def n_norm_groups(self) -> int:
        """One group per head."""
        return self.n_heads

    def n_params(self, d_model: int) -> int:
        """The recurrence and its output projection, q, k, v, those of faded tokens, norms."""
        ssm = self.ssm.n_params(d_model) + (self.ssm.width + self.ssm.out_bias) * d_model
        n_kinds = 1 if self.tied else 2
        projections = (d_model + self.in_bias) * (self.width + n_kinds * self.kv_width)
        return ssm + projections + (self.qk_norm == "head") * (1 + n_kinds) * self.head_dim

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of one token's own and faded keys and values."""
        return 2 * self.kv_width * dtype_bytes

    def kv_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of what is seen, 2 w entries at most, and of what waits, w at most."""
        n_entries = min(n_tokens, 2 * self.window) + min(n_tokens, self.window)
        return n_entries * self.kv_width * dtype_bytes

    def kv_read_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of what is seen; faded entries that wait are not read."""
        return min(n_tokens, 2 * self.window) * self.kv_width * dtype_bytes

    def state_bytes(self, dtype_bytes: int = 4, conv_columns: int | None = None) -> int:
        """Bytes of the recurrence's state."""
        return self.ssm.state_bytes(dtype_bytes, conv_columns)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """The recurrence, the matrices, and the pairs seen: those of a window of 2 w."""
        pairs = causal_attention_flops(
            n_tokens, self.n_heads, self.head_dim, self.head_dim, window=2 * self.window
        )
        matrices = matmul_flops(n_tokens, *self._matrices(d_model))
        return self.ssm.model_flops(d_model, n_tokens) + matrices + pairs

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """The recurrence, the matrices, and every score that a call holds."""
        matrices = matmul_flops(batch * n_tokens, *self._matrices(d_model))
        ssm = self.ssm.executed_matmul_flops(d_model, batch, n_tokens)
        return ssm + matrices + 4 * batch * self._held_channels(n_tokens)

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Two products for each matrix; five of the fused kernel instead of two."""
        matrices = matmul_flops(batch * n_tokens, *self._matrices(d_model))
        ssm = self.ssm.executed_backward_flops(d_model, batch, n_tokens)
        return ssm + 2 * matrices + 10 * batch * self._held_channels(n_tokens)

    def _held_channels(self, n_tokens: int) -> int:
        """Scores that are held of one document, times the channels of a head."""
        return fading_pairs(n_tokens, self.window) * self.width

    def _matrices(self, d_model: int) -> list[tuple[int, int]]:
        """Shapes (in, out) of what every token is multiplied with; W_k, W_v twice, tied or not."""
        kv = (d_model, self.kv_width)
        return [(d_model, self.width), kv, kv, (self.ssm.width, d_model)]
