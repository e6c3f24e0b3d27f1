"""Declaration of Mamba-1 (selective state space)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import MixerConfig, Role, matmul_flops


class Mamba1Config(MixerConfig):
    """Mamba-1: every channel has a decay of its own for each of its state columns.

    Source: Gu and Dao 2023 (arXiv 2312.00752).
    """

    role: ClassVar[Role] = "recurrent"
    short_forms: ClassVar[tuple[str, ...]] = ("expand", "width")
    kind: Literal["mamba1"] = "mamba1"
    """The mixer's name."""
    d_inner: int = Field(gt=0)
    """Channels of x, z and u. Default: expand * d_model; `expand` (2) or `width` may be given."""
    d_state: int = Field(default=16, gt=0)
    """State columns per channel. Default: 16."""
    dt_rank: int = Field(gt=0)
    """Channels that the step sizes are projected from. Default: d_model / 16, rounded up."""
    n_groups: int = Field(default=1, gt=0)
    """Groups of channels, each with a dt source, B and C of its own, projected from its channels
    alone; divides d_inner. Default: 1; Zamba 7B has 2."""
    d_conv: int = Field(default=4, gt=1)
    """Taps of the causal depthwise convolution. Default: 4."""
    conv_bias: bool = True
    """Whether the convolution has a bias. Default: true."""
    dt_bc_norm: Literal["none", "rms", "rms_unweighted"] = "none"
    """RMSNorm of dt's source, B and C, each by itself: none (Mamba); rms, with learned weights
    (Jamba, Hymba); rms_unweighted, without (FalconMamba)."""
    dt_bc_norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square in these norms. Default: 0.000001 (Jamba, FalconMamba)."""
    chunk_size: int = Field(default=16, gt=0)
    """Tokens whose states are held at once. Default: 16. It does not change the function."""
    dt_min: float = Field(default=1e-3, gt=0)
    """Lower end of the log-uniform draw of the step size at initialisation. Default: 0.001."""
    dt_max: float = Field(default=0.1, gt=0)
    """Upper end of the log-uniform draw of the step size at initialisation. Default: 0.1."""
    dt_init_floor: float = Field(default=1e-4, gt=0)
    """Smallest initial step size. Default: 0.0001."""

    in_bias: bool = False
    """Whether the input projection has a bias. Default: false."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.d_inner % self.n_groups:
            raise ValueError(f"n_groups = {self.n_groups}: must divide d_inner = {self.d_inner}")
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min}: must not exceed dt_max = {self.dt_max}")
        return self

    @property
    def width(self) -> int:
        """Channels of u: d_inner."""
        return self.d_inner

    @property
    def summary(self) -> str:
        """Channels, state and rank of the step sizes."""
        more = "" if self.n_groups == 1 else f", {self.n_groups} groups"
        more += "" if self.dt_bc_norm == "none" else ", normed dt, B, C"
        more += ", bias" if self.in_bias else ""
        channels = f"{self.d_inner} channels, state {self.d_state}"
        return f"mamba1, {channels}, dt rank {self.dt_rank}{more}"

    @property
    def x_proj_width(self) -> int:
        """Outputs of the projection of a group's convolved x: dt's source, B and C."""
        return self.dt_rank + 2 * self.d_state

    def n_params(self, d_model: int) -> int:
        """Projections to x and z, to dt's source, B and C, and to dt; convolution; A, D, biases."""
        matrices = sum(a * b for a, b in self._matrices(d_model))
        norms = self.n_groups * self.x_proj_width if self.dt_bc_norm == "rms" else 0
        vectors = self.d_conv + self.conv_bias + 2 * self.in_bias + self.d_state + 2
        return matrices + norms + self.d_inner * vectors

    def state_bytes(self, dtype_bytes: int = 4, conv_columns: int | None = None) -> int:
        """The SSM state (d_inner, d_state) and the convolution's last inputs."""
        columns = self.d_conv - 1 if conv_columns is None else conv_columns
        return dtype_bytes * self.d_inner * (self.d_state + columns)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Projections, convolution, and the recurrence itself.

        Per token, channel and state column: dt A, decay, product with B and sum 4, readout 2; per
        token and channel the product with dt, that with D and the skip's sum 3.
        """
        elementwise = self.d_inner * (2 * self.d_conv + 6 * self.d_state + 3)
        return matmul_flops(n_tokens, *self._matrices(d_model)) + n_tokens * elementwise

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Projections, and reading the states as one product with C for every token."""
        tokens = batch * n_tokens
        return matmul_flops(tokens, *self._matrices(d_model)) + tokens * self._read_flops

    def executed_backward_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """Two products for each projection; for every token those of dB, dC and d(dt x).

        A single token is a step: without a state before it, two products.
        """
        tokens = batch * n_tokens
        products = 2 if n_tokens == 1 else 3
        projections = 2 * matmul_flops(tokens, *self._matrices(d_model))
        return projections + products * tokens * self._read_flops

    @property
    def _read_flops(self) -> int:
        return 2 * self.d_inner * self.d_state

    def _matrices(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """Their sizes; in groups each of the latter two is a diagonal of smaller ones."""
        return (
            (d_model, 2 * self.d_inner),
            (self.d_inner, self.x_proj_width),
            (self.dt_rank, self.d_inner),
        )
