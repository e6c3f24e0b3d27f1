"""Declaration of the mixture of experts: a router, experts of which each token uses a few."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.mixers.base import MixerConfig, Role


class MoEConfig(MixerConfig):
    """y = r(sum of w_e expert_e(l(x)) over the chosen e) + shared expert; no token is dropped.

    An expert is an MLP with its own down projection, so the block has none (`has_own_output`).
    l and r lead into a narrower latent space and back, or are left out.
    """

    role: ClassVar[Role] = "channel"
    has_own_output: ClassVar[bool] = True
    kind: Literal["moe"] = "moe"
    """The mixer's name."""
    n_experts: int = Field(default=8, gt=0)
    """Routed experts. Default: 8 (Mixtral, arXiv 2401.04088)."""
    top_k: int = Field(default=2, gt=0)
    """Experts that a token uses. Default: 2 (Mixtral)."""
    d_ff: int = Field(gt=0)
    """Inner width of one expert. Default: the MLP's / top_k, rounded up to a multiple of 8."""
    activation: Literal["silu", "gelu", "relu2"] = "silu"
    """silu (with gated = true this is SwiGLU), gelu (exact), or relu2, the squared ReLU."""
    gated: bool = True
    """Whether a second projection gates the first, in routed and shared experts."""
    router: Literal["softmax", "sigmoid"] = "softmax"
    """What turns logits into scores: over all experts, or each by itself (DeepSeek-V3)."""
    topk_first: bool = False
    """Whether the softmax is over the chosen logits alone (Granite 4, gpt-oss), not over all."""
    norm_topk: bool = True
    """Whether the scores of the chosen experts are divided by their sum. Jamba: no."""
    routed_scale: float = Field(default=1.0, gt=0)
    """Factor on the chosen experts' weights (DeepSeek-V3: 2.5). Default: 1."""
    n_groups: int = Field(default=1, gt=0)
    """Equal groups of experts; a token chooses groups first (DeepSeek-V3). Default: 1, off."""
    topk_group: int = Field(default=1, gt=0)
    """Groups that a token may choose from, by the sum of each group's two best. Default: 1."""
    d_shared: int | None = Field(default=None, gt=0)
    """Inner width of the expert that every token uses. Default: none."""
    shared_gate: bool = False
    """Whether sigmoid(w x) scales the shared expert's output (Qwen3-Next)."""
    d_latent: int | None = Field(default=None, gt=0)
    """Width that routed experts read and write (Nemotron 3). Default: d_model, unprojected."""
    balance: Literal["aux_loss", "bias", "none"] = "aux_loss"
    """What evens the load: a loss (Switch), a bias on the choice alone (DeepSeek-V3), nothing."""
    aux_coef: float | None = Field(default=None, ge=0)
    """Weight of the balance loss, nats. Default: 0.01 (Switch, arXiv 2101.03961) with aux_loss."""
    aux_over: Literal["batch", "row"] | None = None
    """Tokens that should be even among themselves: those of a call, or each row. Default: batch."""
    bias_rate: float | None = Field(default=None, gt=0)
    """Step of the bias per update. Default: 0.001 (Wang et al., arXiv 2408.15664) with bias."""
    z_coef: float = Field(default=0.0, ge=0)
    """Weight of the router's z loss, nats (ST-MoE, arXiv 2202.08906: 0.001). Default: 0, off."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k = {self.top_k}: must be at most n_experts = {self.n_experts}")
        if self.n_experts % self.n_groups:
            raise ValueError(
                f"n_groups = {self.n_groups}: must divide n_experts = {self.n_experts}"
            )
        if self.topk_group > self.n_groups:
            raise ValueError(
                f"topk_group = {self.topk_group}: must be at most n_groups = {self.n_groups}"
            )
        eligible = self.topk_group * (self.n_experts // self.n_groups)
        if self.top_k > eligible:
            raise ValueError(
                f"top_k = {self.top_k}: must be at most {eligible}, the experts of "
                f"topk_group = {self.topk_group} groups"
            )
        return self

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.topk_first and self.router != "softmax":
            raise ValueError(
                "topk_first = true: belongs only to router = 'softmax'; "
                "a sigmoid sees each logit by itself"
            )
        if self.topk_first and not self.norm_topk:
            raise ValueError(
                "norm_topk = false: with topk_first = true the chosen weights always sum to one"
            )
        if self.norm_topk and self.top_k == 1:
            raise ValueError(
                "norm_topk = true: with top_k = 1 every weight is one, and the router learns "
                "nothing; use norm_topk = false, or top_k = 2 or more"
            )
        if self.shared_gate and self.d_shared is None:
            raise ValueError("shared_gate = true: needs a shared expert, d_shared")
        for field, owner in (
            ("aux_coef", "aux_loss"),
            ("aux_over", "aux_loss"),
            ("bias_rate", "bias"),
        ):
            value = getattr(self, field)
            if (value is not None) != (self.balance == owner):
                what = "needs a value with" if value is None else "belongs only to"
                raise ValueError(f"{field} = {value!r}: {what} balance = '{owner}'")
        return self

    @property
    def width(self) -> int:
        """Channels that enter the down projections for one token."""
        return self.top_k * self.d_ff + (self.d_shared or 0)

    @property
    def summary(self) -> str:
        """Experts, their width, activation and what else there is."""
        shared = f", shared {self.d_shared}" if self.d_shared else ""
        latent = f", latent {self.d_latent}" if self.d_latent else ""
        gated = "gated " if self.gated else ""
        experts = f"{self.top_k} of {self.n_experts} experts, d_ff {self.d_ff}"
        return f"moe, {experts}{shared}{latent}, {gated}{self.activation}"

    def expert_params(self, d_model: int) -> int:
        """Parameters of one routed expert."""
        return (self.d_latent or d_model) * self.d_ff * (2 + self.gated)

    def common_params(self, d_model: int) -> int:
        """Parameters that every token uses: router, latent projections, shared expert and gate."""
        shared = (self.d_shared or 0) * (2 + self.gated) + self.shared_gate
        return d_model * (self.n_experts + 2 * (self.d_latent or 0) + shared)

    def n_params(self, d_model: int) -> int:
        """Parameters of all experts, down projections included, and of what all tokens use."""
        return self.common_params(d_model) + self.n_experts * self.expert_params(d_model)

    def n_active_params(self, d_model: int, n_uses: int = 1) -> int:
        """Parameters that one token uses: those of `top_k` experts and the common ones.

        A shared router chooses anew at each use: counted are as many experts as it can choose.
        """
        n_chosen = min(self.n_experts, n_uses * self.top_k)
        return self.common_params(d_model) + n_chosen * self.expert_params(d_model)

    def expected_experts(self, batch: int) -> float:
        """Distinct experts that `batch` tokens use: E (1 - (1 - k/E)^B), if choices were even."""
        n = self.n_experts
        return n * (1.0 - (1.0 - self.top_k / n) ** batch)

    def model_flops(self, d_model: int, n_tokens: int) -> int:
        """Every active parameter belongs to a matrix: 2 per parameter and token."""
        return 2 * n_tokens * self.n_active_params(d_model)

    def executed_matmul_flops(self, d_model: int, batch: int, n_tokens: int) -> int:
        """The same products: tokens are sorted by expert, and none is computed in vain."""
        return batch * self.model_flops(d_model, n_tokens)
