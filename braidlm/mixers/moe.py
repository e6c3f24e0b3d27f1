"""The mixture of experts: a router chooses a few of many MLPs for each token; no memory.

    y = r(sum over chosen e of w_e expert_e(l(x))) + g(x) shared(x)

with l and r the latent projections, g a sigmoid gate and shared an expert of all tokens, each only
where declared. Tokens are never dropped: an expert takes as many as choose it.

Source: Shazeer et al. 2017 (arXiv 1701.06538); shared experts and bias: DeepSeek-V3 (arXiv
2412.19437); gate of the shared expert: Qwen2-MoE, Qwen3-Next; latent: Nemotron 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidlm.arch.mixers import MLPConfig, MoEConfig
from braidlm.mixers.mlp import MLP
from braidlm.mixers.router import Router
from braidlm.mixers.telemetry import real
from braidlm.ops.experts import experts
from braidlm.ops.routing import mean_entropy
from braidlm.segments import Segments


class SharedExpert(nn.Module):
    """The expert of every token: an MLP and its way down, gated by sigmoid(w x) if declared."""

    def __init__(self, config: MoEConfig, d_model: int, d_ff: int) -> None:
        super().__init__()
        mlp = MLPConfig(d_ff=d_ff, activation=config.activation, gated=config.gated)
        self.mlp = MLP(mlp, d_model)
        self.out_proj = nn.Linear(d_ff, d_model, bias=False)
        self.gate = nn.Linear(d_model, 1, bias=False) if config.shared_gate else None

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights."""
        self.mlp.reset_parameters(std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, d_model) to the same shape."""
        y = self.out_proj(self.mlp(x, None, None, False)[0])
        return y if self.gate is None else self.gate(x).sigmoid() * y


class MoE(nn.Module):
    """Router, routed experts, and a shared one if declared; u is the sublayer's output itself.

    `impl` chooses the form of `ops.experts`; "dense" is the one in which nothing that other tokens
    do can change a token's bits.
    """

    impl = "auto"

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        width, inner = config.d_latent or d_model, config.d_ff
        self.n_rows = (inner,) * (1 + config.gated)
        self.router = Router(config, d_model)
        self.experts_in = nn.Parameter(torch.empty(config.n_experts, sum(self.n_rows), width))
        self.experts_out = nn.Parameter(torch.empty(config.n_experts, width, inner))
        self.latent_in = self.latent_out = self.shared = None
        if config.d_latent is not None:
            self.latent_in = nn.Linear(d_model, width, bias=False)
            self.latent_out = nn.Linear(width, d_model, bias=False)
        if config.d_shared is not None:
            self.shared = SharedExpert(config, d_model, config.d_shared)

    def reset_parameters(self, std: float, out_std: float | None = None) -> None:
        """Draw the initial weights; what leads to the residual stream with `out_std`."""
        out_std = std if out_std is None else out_std
        self.router.reset_parameters(std)
        nn.init.normal_(self.experts_in, std=std)
        nn.init.normal_(self.experts_out, std=out_std if self.latent_out is None else std)
        if self.latent_in is not None and self.latent_out is not None:
            nn.init.normal_(self.latent_in.weight, std=std)
            nn.init.normal_(self.latent_out.weight, std=out_std)
        if self.shared is not None:
            self.shared.reset_parameters(std, out_std)

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices in the stacks of experts, by their rows: gate, up of each; down."""
        n_experts, width, _ = self.experts_out.shape
        return {"experts_in": self.n_rows * n_experts, "experts_out": (width,) * n_experts}

    def forward(
        self,
        x: Tensor,
        segments: Segments | None,
        state: None,
        return_state: bool,
        aux: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, None]:
        """Map x (B, T, d_model) to y of the same shape; each token by itself.

        Args:
            x: the input.
            segments: only says which tokens are padding, for `aux`.
            state: None: there is no memory.
            return_state: changes nothing.
            aux: filled with what `Router.aux` tells.
        """
        routed = self.router(x)
        if aux is not None:
            aux |= self.router.aux(routed, x.shape, segments)
        wide = x if self.latent_in is None else self.latent_in(x)
        y = experts(
            wide.flatten(0, 1),
            routed.choice.index,
            routed.choice.weight,
            self.experts_in,
            self.experts_out,
            activation=self.activation,
            gated=self.gated,
            impl=self.impl,
        ).view(*x.shape[:2], -1)
        y = y if self.latent_out is None else self.latent_out(y)
        return y if self.shared is None else y + self.shared(x), None

    def telemetry(self, x: Tensor, segments: Segments | None) -> dict[str, Tensor]:
        """Tell how even the load is, and how sure the router: its mean entropy per token, in nats.

        The loads are those of the fullest and emptiest expert over the mean.
        """
        routed = self.router(x)
        load = self.router.load(routed, x.shape, segments).sum(0).float()
        shares = real(routed.choice.shares.unflatten(0, x.shape[:2]), segments)
        found = {
            "load_max": load.max() / load.mean(),
            "load_min": load.min() / load.mean(),
            "router_entropy": mean_entropy(shares),
        }
        if self.router.bias is not None:
            found["bias_range"] = self.router.bias.max() - self.router.bias.min()
        return found
