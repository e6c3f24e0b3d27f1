"""What the declarations of Gated DeltaNet and KDA share: sizes, state, and the work of the rule."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import MixerConfig, Role, matmul_flops


class DeltaConfig(MixerConfig):
    """A mixer by the gated delta rule: keys of unit length, a state of D x Dv per value head."""

    role: ClassVar[Role] = "recurrent"
    short_forms: ClassVar[tuple[str, ...]] = ("expand", "expand_v", "width")
    kind: str
    n_heads: int = Field(gt=0)
    """Heads of queries and keys. Default: expand * d_model / head_dim; `expand` may be given."""
    n_v_heads: int = Field(gt=0)
    """Heads of values and gates, each with a state; a multiple of n_heads. Default: n_heads."""
    head_dim: int = Field(gt=0)
    """Channels of a query and a key. Default: a divisor of expand * d_model."""
    v_head_dim: int = Field(gt=0)
    """Channels of a value. Default: expand_v * head_dim; `expand_v` may be given instead."""
    d_conv: int = Field(default=4, gt=1)
    """Taps of the causal depthwise convolution over q, k and v. Default: 4."""
    conv_bias: bool = False
    """Whether the convolution has a bias. Default: false."""
    chunk_size: int = Field(default=64, gt=0)
    """Tokens per chunk of the matrix form. Default: 64. It does not change the function."""
    allow_negative_eigenvalues: bool = False
    """Whether beta goes up to 2 instead of 1 (arXiv 2411.12537; OLMo-Hybrid). Default: false."""
    norm_eps: float | None = Field(default=None, gt=0)
    """Added to the mean square in the norm of each head's output. Default: the model's."""
    dt_min: float = Field(default=1e-3, gt=0)
    """Lower end of the log-uniform draw of the step size at initialisation. Default: 0.001."""
    dt_max: float = Field(default=0.1, gt=0)
    """Upper end of the log-uniform draw of the step size at initialisation. Default: 0.1."""
    dt_init_floor: float = Field(default=1e-4, gt=0)
    """Smallest initial step size. Default: 0.0001."""
    A_init_min: float
    A_init_max: float
    gate_activation: Literal["silu", "sigmoid"]

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if self.n_v_heads % self.n_heads:
            raise ValueError(
                f"n_v_heads = {self.n_v_heads}: must be a multiple of n_heads = {self.n_heads}"
            )
        for low, high in (("A_init_min", "A_init_max"), ("dt_min", "dt_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} = {getattr(self, low)}: must not exceed {high} = {getattr(self, high)}"
                )
        return self

    @property
    def k_width(self) -> int:
        """Channels of all queries, and of all keys: n_heads * head_dim."""
        return self.n_heads * self.head_dim

    @property
    def width(self) -> int:
        """Channels of u: n_v_heads * v_head_dim."""
        return self.n_v_heads * self.v_head_dim

    @property
    def summary(self) -> str:
        """Heads and their channels."""
        grouped = "" if self.n_v_heads == self.n_heads else f"{self.n_v_heads} "
        return (
            f"{self.kind}, {self.n_heads} heads of {self.head_dim}, "
            f"{grouped}values of {self.v_head_dim}"
        )

    @property
    def n_norm_groups(self) -> int:
        """One group per value head."""
        return self.n_v_heads

    @property
    def conv_width(self) -> int:
        """Channels that the convolution sees: q, k and v."""
        return 2 * self.k_width + self.width

    @property
    @abstractmethod
    def in_widths(self) -> tuple[int, ...]:
        """Outputs of the input projection: q, k and v together, then the mixer's own, then b."""

    @property
    @abstractmethod
    def inner_shapes(self) -> tuple[tuple[int, int], ...]:
        """Matrices between the input projection and the rule."""

    @property
    @abstractmethod
    def n_extra_params(self) -> int:
        """Rates, steps and biases."""

    def n_params(self, d_model: int) -> int:
        """Matrices, convolution, rates and steps, and one norm that all heads share."""
        matrices = d_model * sum(self.in_widths) + sum(a * b for a, b in self.inner_shapes)
        conv = self.conv_width * (self.d_conv + self.conv_bias)
        return matrices + conv + self.n_extra_params + self.v_head_dim

    def state_bytes(self, dtype_bytes: int = 4, conv_columns: int | None = None) -> int:
        """The memory (n_v_heads, head_dim, v_head_dim) and the convolution's last inputs."""
        columns = self.d_conv - 1 if conv_columns is None else conv_columns
        return dtype_bytes * (self.width * self.head_dim + columns * self.conv_width)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Matrices, convolution, and the recurrence itself.

        Per token and value head: the decay D Dv, what the key finds 2 D Dv, the difference from
        the value and its product with beta 2 Dv, outer product and sum 2 D Dv, readout 2 D Dv.
        """
        shapes = ((d_model, sum(self.in_widths)), *self.inner_shapes)
        recurrence = self.width * (7 * self.head_dim + 2)
        per_token = 2 * self.d_conv * self.conv_width + recurrence
        return matmul_flops(n_tokens, *shapes) + n_tokens * per_token

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Matrices, and the products of the chunked form (one token: none)."""
        shapes = ((d_model, sum(self.in_widths)), *self.inner_shapes)
        return matmul_flops(batch * n_tokens, *shapes) + batch * self._rule_flops(n_tokens)

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Two products for each one, and one for each triangular system."""
        chunk, n_chunks = self._chunks(n_tokens)
        systems = 0 if n_tokens == 1 else 2 * batch * n_chunks * self.n_v_heads * chunk**3
        return 2 * self.executed_matmul_flops(d_model, batch, n_tokens) + systems

    def _chunks(self, n_tokens: int) -> tuple[int, int]:
        chunk = min(self.chunk_size, n_tokens)
        return chunk, -(-n_tokens // chunk)

    def _rule_flops(self, n_tokens: int) -> int:
        """Products of one row that starts from nothing and returns no state, as in training.

        Per chunk: keys and queries with keys, the system's inverse with values, queries' products
        with changes; with more than one chunk also the inverse with keys, what the entering state
        gives to keys (not in the first) and queries, and what is written (not in the last).
        """
        if n_tokens == 1:
            return 0
        chunk, n_chunks = self._chunks(n_tokens)
        inside = 4 * chunk * chunk * self.width + self._pair_flops(chunk)
        if n_chunks == 1:
            return inside
        keys = 2 * chunk * chunk * self.n_v_heads * self.head_dim
        state = 2 * chunk * self.head_dim * self.width
        return n_chunks * (inside + keys) + (3 * n_chunks - 2) * state

    @abstractmethod
    def _pair_flops(self, chunk: int) -> int:
        """Products of keys, and of queries with keys, inside one chunk of one row."""
