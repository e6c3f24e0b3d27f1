"""What every mixer's declaration owes: its width, parameters, state bytes and FLOPs, exactly.

A mixer reads x (B, T, d_model) and yields u (B, T, width) *before* an output projection; the
block owns that projection, so one declaration serves a sublayer of its own and a branch of a
parallel one. All figures here leave the output projection and its bias out; `arch.cost` adds them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config
from braidlm.arch.mixers.tiles import computed_pairs, visible_pairs
from braidlm.arch.wiring import WIRING

Role = Literal["attention", "recurrent", "channel"]


class MixerConfig(Config):
    """A mixer's declaration. FLOP conventions are defined in ``docs/cost.md``."""

    role: ClassVar[Role]
    """attention: exact, its cache grows; recurrent: fixed state; channel: no memory at all."""
    has_own_output: ClassVar[bool] = False
    """Whether u is (B, T, d_model) already: the mixer projects for itself, and counts it too."""
    beside: ClassVar[tuple[str, ...]] = WIRING
    in_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the normed input (Falcon-H1). Default: 1."""
    out_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the output projection's result (Falcon-H1). Default: 1."""
    out_bias: bool = False
    """Whether the output projection has a bias. Default: false."""

    @model_validator(mode="after")
    def _only_a_blocks_projection_has_a_bias(self) -> Self:
        if self.out_bias and self.has_own_output:
            raise ValueError("out_bias = true: this mixer projects for itself, without a bias")
        return self

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels of u, the input of the output projection."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The sizes that matter, in a few words, for tables."""

    @property
    def n_norm_groups(self) -> int:
        """Groups of a per-head group norm over u: the number of heads."""
        return 1

    @property
    def is_plain_out(self) -> bool:
        """Whether the output projection is a matrix and nothing else."""
        return self.out_multiplier == 1.0 and not self.out_bias

    @property
    def lora_widths(self) -> tuple[int, ...]:
        """Outputs of each matrix of the input projection that a low-rank product may be added to.

        Empty where the module cannot go on from a projection (`projected`).
        """
        return ()

    @abstractmethod
    def n_params(self, d_model: int) -> int:
        """Parameters, without the output projection."""

    def output_params(self, d_model: int) -> int:
        """Entries of the output projection's matrix that a sublayer of its own adds."""
        return 0 if self.has_own_output else self.width * d_model

    def n_active_params(self, d_model: int, n_uses: int = 1) -> int:
        """Parameters that one token uses; fewer than all of them only where a router chooses.

        Args:
            d_model: channels of the input.
            n_uses: how often the token passes through these weights.
        """
        return self.n_params(d_model)

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of one token's entry in the cache."""
        return 0

    def kv_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of the cache of one sequence of `n_tokens`; that of a window stops growing."""
        return n_tokens * self.kv_bytes_per_token(dtype_bytes)

    def kv_read_bytes(self, n_tokens: int, dtype_bytes: int = 2) -> int:
        """Bytes of that cache which a decode step reads: all, unless a part of it only waits."""
        return self.kv_bytes(n_tokens, dtype_bytes)

    def state_bytes(self, dtype_bytes: int = 4, conv_columns: int | None = None) -> int:
        """Bytes of fixed-size state of one sequence.

        Args:
            dtype_bytes: bytes of one number; states are held in fp32.
            conv_columns: columns kept of the convolution's input; None is what is really
                allocated, ``d_conv - 1``; some papers count `d_conv`.
        """
        return 0

    @abstractmethod
    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Forward FLOPs over one sequence of `n_tokens`, canonical convention."""

    @abstractmethod
    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Forward FLOPs of the matrix products that run, as torch's FlopCounterMode counts them."""

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Backward FLOPs by the same counter: two products for each one of the forward pass."""
        return 2 * self.executed_matmul_flops(d_model, batch, n_tokens)


def matmul_flops(n_tokens: int, *shapes: tuple[int, int]) -> int:
    """FLOPs of multiplying `n_tokens` rows with matrices of these shapes: 2 per weight and row."""
    return 2 * n_tokens * sum(a * b for a, b in shapes)


def causal_attention_flops(
    n_tokens: int,
    n_heads: int,
    qk_dim: int,
    v_dim: int,
    *,
    window: int | None = None,
    n_sinks: int = 0,
) -> int:
    """FLOPs of causal softmax attention: each pair that is seen costs 2 (qk_dim + v_dim)."""
    return 2 * visible_pairs(n_tokens, window, n_sinks) * n_heads * (qk_dim + v_dim)


def executed_attention_flops(
    n_tokens: int,
    n_heads: int,
    qk_dim: int,
    v_dim: int,
    *,
    window: int | None = None,
    n_sinks: int = 0,
    sink_logit: bool = False,
    softcap: bool = False,
) -> int:
    """FLOPs of an attention as torch counts them: 2 products for every score that is held.

    The fused kernel wants one width for queries, keys and values, so the narrower is padded; a sink
    logit is one more channel of queries and keys. Capped scores do without both.
    """
    pairs = computed_pairs(n_tokens, window, n_sinks, sink_logit=sink_logit, softcap=softcap)
    if softcap:
        return 2 * pairs * n_heads * (qk_dim + v_dim)
    return 4 * pairs * n_heads * max(qk_dim + sink_logit, v_dim)


def backward_attention_flops(
    n_tokens: int,
    n_heads: int,
    qk_dim: int,
    v_dim: int,
    *,
    window: int | None = None,
    n_sinks: int = 0,
    sink_logit: bool = False,
    softcap: bool = False,
) -> int:
    """FLOPs of its backward pass, 5 products: scores again, then gradients of p, v, q and k."""
    pairs = computed_pairs(n_tokens, window, n_sinks, sink_logit=sink_logit, softcap=softcap)
    if softcap:
        return 2 * pairs * n_heads * (3 * qk_dim + 2 * v_dim)
    return 10 * pairs * n_heads * max(qk_dim + sink_logit, v_dim)
