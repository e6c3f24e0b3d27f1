"""The router of a mixture of experts: scores, choice, and what keeps the load even."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.arch.mixers import MoEConfig
from braidlm.ops import dispatch
from braidlm.ops.dispatch import state_dtype
from braidlm.ops.routing import Routing, balance_loss, loads, route, z_loss
from braidlm.segments import Segments


class Routed(NamedTuple):
    """What the router made of x (B, T, d_model); N = B T tokens in row-major order."""

    logits: Tensor
    """(N, n_experts), at least fp32."""
    choice: Routing
    """The experts of each token."""


class Router(nn.Module):
    """logits = W x in at least fp32, and a bias on the choice alone if the declaration has one."""

    bias: Tensor | None

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.n_experts, self.top_k = config.n_experts, config.top_k
        self.topk_first = config.topk_first
        self.scores: Literal["softmax", "sigmoid"] = config.router
        self.norm_topk, self.scale = config.norm_topk, config.routed_scale
        self.n_groups, self.topk_group = config.n_groups, config.topk_group
        self.aux_coef, self.z_coef = config.aux_coef or 0.0, config.z_coef
        self.is_by_row = config.aux_over == "row"
        self.bias_rate = config.bias_rate
        self.weight = nn.Parameter(torch.empty(config.n_experts, d_model))
        has_bias = config.balance == "bias"
        self.register_buffer("bias", torch.empty(config.n_experts) if has_bias else None)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights; the bias starts at zero."""
        nn.init.normal_(self.weight, std=std)
        if self.bias is not None:
            self.bias.zero_()

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the one matrix."""
        return {"weight": (self.n_experts,)}

    def forward(self, x: Tensor) -> Routed:
        """Choose experts for each token of x (B, T, d_model)."""
        with dispatch.own_precision(x):
            wide = state_dtype(x.dtype)
            logits = F.linear(x.flatten(0, 1).to(wide), self.weight.to(wide))
            choice = route(
                logits,
                self.top_k,
                scores=self.scores,
                topk_first=self.topk_first,
                norm_topk=self.norm_topk,
                scale=self.scale,
                n_groups=self.n_groups,
                topk_group=self.topk_group,
                bias=self.bias,
            )
        return Routed(logits, choice)

    def load(self, routed: Routed, shape: torch.Size, segments: Segments | None) -> Tensor:
        """Count the tokens of documents that chose each expert: (B, n_experts) int64, by row."""
        is_real = None if segments is None else segments.is_real
        return loads(routed.choice.index.unflatten(0, shape[:2]), self.n_experts, is_real)

    def aux(
        self, routed: Routed, shape: torch.Size, segments: Segments | None
    ) -> dict[str, Tensor]:
        """Tell what training needs to know of x, of the shape given; padding does not count.

        Returns:
            `load`: (n_experts,) int64 tokens that chose each expert. `router_loss`, if there is
            one: () nats, mean over tokens, coefficients included.
        """
        by_row = self.load(routed, shape, segments)
        told = {"load": by_row.sum(0)}
        is_real = None if segments is None else segments.is_real
        losses = []
        with dispatch.own_precision(routed.logits):
            if self.aux_coef:
                shares = routed.choice.shares.unflatten(0, shape[:2])
                sets = (
                    (by_row, shares, is_real) if self.is_by_row else _one(by_row, shares, is_real)
                )
                losses.append(self.aux_coef * balance_loss(*sets))
            if self.z_coef:
                real = None if is_real is None else is_real.flatten()
                losses.append(self.z_coef * z_loss(routed.logits, real))
        return told | ({"router_loss": torch.stack(losses).sum()} if losses else {})

    @torch.no_grad()
    def balance(self, load: Tensor) -> None:
        """Raise the bias of experts with less than the mean load by one step, lower the others'.

        Args:
            load: (n_experts,) tokens of each over the whole batch, all processes included.

        Source: Wang et al. 2024 (arXiv 2408.15664), algorithm 1.
        """
        if self.bias is not None and self.bias_rate is not None:
            load = load.to(self.bias)
            self.bias += self.bias_rate * torch.sign(load.mean() - load)


def _one(
    by_row: Tensor, shares: Tensor, is_real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Take all rows as one set of tokens."""
    flat = None if is_real is None else is_real.flatten()[None]
    return by_row.sum(0, keepdim=True), shares.flatten(0, 1)[None], flat
