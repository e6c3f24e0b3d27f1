"""Declaration of the MLP, gated or not."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

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

    @property
    def width(self) -> int:
        """Channels of u: d_ff."""
        return self.d_ff

    @property
    def summary(self) -> str:
        """Inner width and activation."""
        return f"mlp, d_ff {self.d_ff}, {'gated ' if self.gated else ''}{self.activation}"

    def n_params(self, d_model: int) -> int:
        """Parameters of the up projection, and of the gate's if there is one."""
        return d_model * self.d_ff * (1 + self.gated)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """The up and gate projections."""
        return matmul_flops(n_tokens, (d_model, self.d_ff * (1 + self.gated)))

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """The same products as the canonical count."""
        return batch * self.model_flops(d_model, n_tokens)
