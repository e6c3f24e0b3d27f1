"""Declaration of the attention that a fusion may own: its heads, positions and cost.

A *cross attention* asks from one branch and answers from the other: T keys. A *merge attention*
asks from the mean of both branches and answers from both: 2 T keys under one softmax. Both have
their own q, k, v, o matrices and their own KV cache, of one and of two streams.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.mixers.base import (
    backward_attention_flops,
    causal_attention_flops,
    executed_attention_flops,
)


class CrossAttention(Config):
    """The attention of combine = "cross_attention" and of combine = "merge_attention".

    Source: Lee et al. 2025 (arXiv 2510.26912): the attention branch asks, the SSM branch answers.
    """

    n_heads: int = Field(gt=0)
    """Query heads. Default: those of the attention branch."""
    n_kv_heads: int = Field(gt=0)
    """Key/value heads. Default: those of the attention branch."""
    head_dim: int = Field(gt=0)
    """Channels of a head. Default: that of the attention branch."""
    query: Literal["attention", "recurrent"] | None = None
    """The branch that asks, the other answers; cross_attention alone. Default: "attention"."""
    position: Literal["none", "rope"] = "none"
    """Position encoding of queries and keys. Default: none."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies. Default: 10000."""
    window: int | None = Field(default=None, gt=0)
    """Tokens of each stream that a query sees, itself included. Default: all."""
    n_sinks: int = Field(default=0, ge=0)
    """First tokens of each stream that stay visible under a window. Default: the meta tokens."""
    residual: bool = False
    """Whether the asking stream is added to the result before W_o (widths must agree)."""
    answer_residual: bool = False
    """Whether the answering branch is; cross_attention alone. Default: false."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads = {self.n_kv_heads}: must divide n_heads = {self.n_heads}"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim}: must be even for position = 'rope'")
        if self.n_sinks and self.window is None:
            raise ValueError(
                f"n_sinks = {self.n_sinks}: needs a window; without one every token stays visible"
            )
        return self

    @property
    def width(self) -> int:
        """Channels of the attention's output."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Channels of one token's keys and values together, of one stream."""
        return 2 * self.n_kv_heads * self.head_dim

    @property
    def summary(self) -> str:
        """Who asks, the heads and the position encoding, in a few words."""
        asks = "the recurrent branch asks, " if self.query == "recurrent" else ""
        shared = "" if self.n_kv_heads == self.n_heads else f", {self.n_kv_heads} kv"
        position = "" if self.position == "none" else ", rope"
        sinks = f" + {self.n_sinks} sinks" if self.n_sinks else ""
        window = "" if self.window is None else f", window {self.window}{sinks}"
        heads = f"{self.n_heads} heads of {self.head_dim}{shared}"
        residual = ", residual" if self.residual else ""
        residual += ", answer residual" if self.answer_residual else ""
        return f"{asks}{heads}{window}{position}{residual}"

    def n_held(self, n_tokens: int) -> int:
        """Tokens of `n_tokens` that the last one sees, and that the cache holds."""
        return n_tokens if self.window is None else min(n_tokens, self.window + self.n_sinks)

    def model_flops(self, n_tokens: int, n_streams: int) -> int:
        """FLOPs of the pairs of one sequence that are really seen, in each stream."""
        dim = self.head_dim
        return n_streams * causal_attention_flops(
            n_tokens, self.n_heads, dim, dim, window=self.window, n_sinks=self.n_sinks
        )

    def executed_flops(self, n_tokens: int, n_streams: int) -> int:
        """FLOPs of the scores that are held: two streams are interleaved to 2 T places."""
        dim = self.head_dim
        window, n_sinks = self.places(n_streams)
        return executed_attention_flops(
            n_streams * n_tokens, self.n_heads, dim, dim, window=window, n_sinks=n_sinks
        )

    def executed_backward_flops(self, n_tokens: int, n_streams: int) -> int:
        """FLOPs of their backward pass."""
        dim = self.head_dim
        window, n_sinks = self.places(n_streams)
        return backward_attention_flops(
            n_streams * n_tokens, self.n_heads, dim, dim, window=window, n_sinks=n_sinks
        )

    def places(self, n_streams: int) -> tuple[int | None, int]:
        """The window (None without one) and the sinks, in places of interleaved streams."""
        window = None if self.window is None else n_streams * self.window
        return window, n_streams * self.n_sinks
