"""Declaration of Mamba-2 (state-space duality)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import MixerConfig, Role, matmul_flops

Factor = Annotated[float, Field(gt=0)]


class Mamba2Config(MixerConfig):
    """Mamba-2: scalar decay per head, B and C shared inside a group.

    Source: Dao and Gu 2024 (arXiv 2405.21060).
    """

    role: ClassVar[Role] = "recurrent"
    short_forms: ClassVar[tuple[str, ...]] = ("expand", "width")
    kind: Literal["mamba2"] = "mamba2"
    """The mixer's name."""
    n_heads: int = Field(gt=0)
    """Heads. Default: expand * d_model / head_dim; `expand` (2) or `width` may be given instead."""
    head_dim: int = Field(gt=0)
    """Channels of a head. Default: 64, or the inner width if that is smaller."""
    d_state: int = Field(default=128, gt=0)
    """State columns per channel. Default: 128, as in Mamba-2 and the NVIDIA 8B hybrid."""
    n_groups: int = Field(default=1, gt=0)
    """Groups of heads that share B and C; divides n_heads. Default: 1."""
    d_conv: int = Field(default=4, gt=1)
    """Taps of the causal depthwise convolution. Default: 4."""
    conv_bias: bool = True
    """Whether the convolution has a bias. Default: true."""
    chunk_size: int = Field(default=64, gt=0)
    """Tokens per chunk of the matrix form. Default: 64. It does not change the function."""
    A_init_min: float = Field(default=1.0, gt=0)
    """Lower end of the uniform draw of A. Default: 1 (Mamba-2); Bae et al. use 0.01."""
    A_init_max: float = Field(default=16.0, gt=0)
    """Upper end of the uniform draw of A. Default: 16 (Mamba-2); Bae et al. use 2."""
    dt_min: float = Field(default=1e-3, gt=0)
    """Lower end of the log-uniform draw of the step size at initialisation. Default: 0.001."""
    dt_max: float = Field(default=0.1, gt=0)
    """Upper end of the log-uniform draw of the step size at initialisation. Default: 0.1."""
    dt_init_floor: float = Field(default=1e-4, gt=0)
    """Smallest initial step size. Default: 0.0001."""
    norm: Literal["gate_first", "norm_first", "none"] = "gate_first"
    """gate_first: RMSNorm(y SiLU(z)) (Mamba-2); norm_first: RMSNorm(y) SiLU(z); none: no norm."""
    in_bias: bool = False
    """Whether the input projection has a bias. Default: false."""
    multipliers: tuple[Factor, ...] = Field(default=(1.0,) * 5, min_length=5, max_length=5)
    """Factors on z, x, B, C and dt as they leave the input projection (Falcon-H1). Default: 1."""
    dt_limit_min: float = Field(default=0.0, ge=0)
    """Smallest step size, at every token (Zamba2: 0.001). Default: 0."""
    dt_limit_max: float | None = Field(default=None, gt=0)
    """Largest step size, at every token. Default: none."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if self.n_heads % self.n_groups:
            raise ValueError(f"n_groups = {self.n_groups}: must divide n_heads = {self.n_heads}")
        for low, high in (("A_init_min", "A_init_max"), ("dt_min", "dt_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} = {getattr(self, low)}: must not exceed {high} = {getattr(self, high)}"
                )
        if self.dt_limit_max is not None and self.dt_limit_max < self.dt_limit_min:
            raise ValueError(
                f"dt_limit_min = {self.dt_limit_min}: must not exceed "
                f"dt_limit_max = {self.dt_limit_max}"
            )
        return self

    @property
    def d_inner(self) -> int:
        """Channels of x, z and u: n_heads * head_dim."""
        return self.n_heads * self.head_dim

    @property
    def width(self) -> int:
        """Channels of u: d_inner."""
        return self.d_inner

    @property
    def summary(self) -> str:
        """Heads, state and groups."""
        groups = "" if self.n_groups == 1 else f", {self.n_groups} groups"
        bias = ", bias" if self.in_bias else ""
        heads = f"{self.n_heads} heads of {self.head_dim}"
        return f"mamba2, {heads}, state {self.d_state}{groups}{bias}"

    @property
    def n_norm_groups(self) -> int:
        """One group per head."""
        return self.n_heads

    @property
    def conv_width(self) -> int:
        """Channels that the convolution sees: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.d_state

    @property
    def in_proj_width(self) -> int:
        """Outputs of the input projection: z, x, B, C, dt."""
        return self.d_inner + self.conv_width + self.n_heads

    def n_params(self, d_model: int) -> int:
        """Input projection and its bias, convolution, A_log, D, dt_bias and the gated norm."""
        conv = self.conv_width * (self.d_conv + self.conv_bias)
        norm = 0 if self.norm == "none" else self.d_inner
        return (d_model + self.in_bias) * self.in_proj_width + conv + 3 * self.n_heads + norm

    def state_bytes(self, dtype_bytes: int = 4, conv_columns: int | None = None) -> int:
        """The SSM state (n_heads, head_dim, d_state) and the convolution's last inputs."""
        columns = self.d_conv - 1 if conv_columns is None else conv_columns
        return dtype_bytes * (self.d_inner * self.d_state + columns * self.conv_width)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Projection, convolution, and the recurrence itself.

        Per token and head: decay, outer product and sum of the state 3 P N, readout 2 P N, the
        products with dt and D and the skip's sum 3 P.
        """
        conv = 2 * self.d_conv * self.conv_width
        recurrence = self.d_inner * (5 * self.d_state + 3)
        return matmul_flops(n_tokens, (d_model, self.in_proj_width)) + n_tokens * (
            conv + recurrence
        )

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Projection, and the matrix products of the chunked form (one token: of the step)."""
        projection = matmul_flops(batch * n_tokens, (d_model, self.in_proj_width))
        return projection + batch * self._scan_flops(n_tokens)

    def _scan_flops(self, n_tokens: int) -> int:
        """Products of one row that starts from nothing and returns no state, as in training.

        Per chunk of c tokens: scores C B^T and their product with x; with more than one chunk
        also what the chunk adds to the state and what the entering state gives to its tokens.
        The last chunk is padded to full size. One token alone only reads its state.
        """
        if n_tokens == 1:
            return 2 * self.d_inner * self.d_state
        chunk = min(self.chunk_size, n_tokens)
        n_chunks = -(-n_tokens // chunk)
        inside = 2 * chunk * chunk * (self.n_groups * self.d_state + self.d_inner)
        between = 2 * (2 * chunk * self.d_state * self.d_inner)
        return n_chunks * (inside + (between if n_chunks > 1 else 0))
