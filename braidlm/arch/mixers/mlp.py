"""Declaration of the MLP, gated or not."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import MixerConfig, Role, matmul_flops


class MLPConfig(MixerConfig):
    """u = act(W_gate x) * W_up x if gated, else act(W_up x); the block's projection goes down."""

    role: ClassVar[Role] = "channel"
    kind: Literal["mlp"] = "mlp"
    """The mixer's name."""
    d_ff: int = Field(gt=0)
    """Inner width. Default: 8/3 d_model rounded up to a multiple of 64 if gated, else 4 d_model."""
    activation: Literal["silu", "gelu", "relu2"] = "silu"
    """silu (with gated = true this is SwiGLU), gelu (exact), or relu2, the squared ReLU."""
    gated: bool = True
    """Whether a second projection gates the first."""
    in_bias: bool = False
    """Whether the up and gate projections have a bias. Default: false."""
    gate_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the gate before its activation (Falcon-H1); gated alone. Default: 1."""

    @model_validator(mode="after")
    def _only_a_gate_is_multiplied(self) -> Self:
        if self.gate_multiplier != 1.0 and not self.gated:
            raise ValueError(f"gate_multiplier = {self.gate_multiplier:g}: needs gated = true")
        return self

    @property
    def in_proj_width(self) -> int:
        """Outputs of the input projection: gate, if there is one, and up."""
        return self.d_ff * (1 + self.gated)

    @property
    def lora_widths(self) -> tuple[int, ...]:
        """Gate and up together, as one matrix (Zamba2)."""
        return (self.in_proj_width,)

    @property
    def width(self) -> int:
        """Channels of u: d_ff."""
        return self.d_ff

    @property
    def summary(self) -> str:
        """Inner width and activation."""
        bias = ", bias" if self.in_bias else ""
        return f"mlp, d_ff {self.d_ff}, {'gated ' if self.gated else ''}{self.activation}{bias}"

    def n_params(self, d_model: int) -> int:
        """Parameters of the up projection, and of the gate's if there is one, and their biases."""
        return (d_model + self.in_bias) * self.in_proj_width

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """The up and gate projections."""
        return matmul_flops(n_tokens, (d_model, self.in_proj_width))

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """The same products as the canonical count."""
        return batch * self.model_flops(d_model, n_tokens)
