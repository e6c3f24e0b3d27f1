"""The parallel sublayer: several mixers on one input, fused into one output.

Branch i yields u_i; then v_i = s_i * Norm_i(u_i), and a combining module with the output
projection(s) makes the sublayer's output. See `docs/fusion.md` for the space of fusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from braidlm import mixers
from braidlm.arch import Spec, Sublayer
from braidlm.arch.fusion import CrossAttention as CrossAttentionConfig
from braidlm.arch.fusion import Fusion
from braidlm.mixers.norm import RMSNorm
from braidlm.ops.attention import KVCache, attention
from braidlm.segments import Segments


class ParallelState(NamedTuple):
    """Memory of a parallel sublayer."""

    branches: tuple[Any, ...]
    """The state of each branch."""
    fusion: KVCache | None
    """The cache of a cross attention."""


class Parallel(nn.Module):
    """Branches, their norms and scales, and the module that combines them."""

    def __init__(self, sublayer: Sublayer, spec: Spec) -> None:
        super().__init__()
        fusion = sublayer.fusion
        assert fusion is not None
        widths = [b.width for b in sublayer.branches]
        self.branches = nn.ModuleList(
            mixers.build(b, spec.d_model, spec.norm_eps) for b in sublayer.branches
        )
        groups = [b.n_norm_groups if fusion.norm == "group" else 1 for b in sublayer.branches]
        self.norms = nn.ModuleList(
            RMSNorm(w, spec.norm_eps, g) if fusion.norm != "none" else nn.Identity()
            for w, g in zip(widths, groups, strict=True)
        )
        self.scales = nn.ParameterList(
            torch.empty(w) for w in (widths if fusion.scale == "learned" else [])
        )
        self.combine = _build_combine(fusion, sublayer, widths, spec.d_model)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the initial weights of every part."""
        for branch in self.branches:
            branch.reset_parameters(std)  # pyright: ignore[reportCallIssue]
        for norm in self.norms:
            if isinstance(norm, RMSNorm):
                norm.reset_parameters()
        for scale in self.scales:
            nn.init.ones_(scale)
        self.combine.reset_parameters(std, out_std)

    def forward(
        self, x: Tensor, segments: Segments | None, state: ParallelState | None, return_state: bool
    ) -> tuple[Tensor, ParallelState | None]:
        """Map x (B, T, d_model) to the sublayer's output of the same shape."""
        before = state.branches if state is not None else (None,) * len(self.branches)
        outputs, after = [], []
        for branch, norm, old in zip(self.branches, self.norms, before, strict=True):
            u, new = branch(x, segments, old, return_state)
            outputs.append(norm(u))
            after.append(new)
        if len(self.scales) > 0:
            outputs = [u * s.to(u.dtype) for u, s in zip(outputs, self.scales, strict=True)]
        cache = state.fusion if state is not None else None
        y, cache = self.combine(outputs, segments, cache, return_state)
        return y, ParallelState(tuple(after), cache) if return_state else None


class Weighted(nn.Module):
    """sum_i c_i W_i v_i, or W sum_i c_i v_i when there is one projection: mean, add, subtract."""

    def __init__(self, coefficients: Sequence[float], widths: Sequence[int], d_model: int) -> None:
        super().__init__()
        self.coefficients = tuple(coefficients)
        self.out_projs = nn.ModuleList(nn.Linear(w, d_model, bias=False) for w in widths)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the projections."""
        for proj in self.out_projs:
            nn.init.normal_(proj.weight, std=out_std)  # pyright: ignore[reportArgumentType]

    def forward(
        self, v: list[Tensor], segments: Segments | None, cache: None, return_state: bool
    ) -> tuple[Tensor, None]:
        """Combine v_i (B, T, w_i) into (B, T, d_model)."""
        if len(self.out_projs) == 1:
            return self.out_projs[0](self._sum(v)), None
        return self._sum([proj(x) for proj, x in zip(self.out_projs, v, strict=True)]), None

    def _sum(self, terms: list[Tensor]) -> Tensor:
        total = terms[0] * self.coefficients[0] if self.coefficients[0] != 1 else terms[0]
        for term, coefficient in zip(terms[1:], self.coefficients[1:], strict=True):
            total = torch.add(total, term, alpha=coefficient)
        return total


class Concat(nn.Module):
    """W [v_1; v_2; ...]."""

    def __init__(self, widths: Sequence[int], d_model: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(sum(widths), d_model, bias=False)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the projection."""
        nn.init.normal_(self.out_proj.weight, std=out_std)

    def forward(
        self, v: list[Tensor], segments: Segments | None, cache: None, return_state: bool
    ) -> tuple[Tensor, None]:
        """Combine v_i (B, T, w_i) into (B, T, d_model)."""
        return self.out_proj(torch.cat(v, dim=-1)), None


class CrossAttention(nn.Module):
    """W_o softmax(q k^T) v: queries from one branch, keys and values from the other, causal.

    Source: Lee et al. 2025 (arXiv 2510.26912), queries from the attention branch.
    """

    def __init__(
        self,
        config: CrossAttentionConfig,
        roles: tuple[int, int],
        widths: Sequence[int],
        d_model: int,
    ) -> None:
        super().__init__()
        self.asks, self.answers = roles
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim, self.residual = config.head_dim, config.residual
        self.q_proj = nn.Linear(widths[self.asks], config.width, bias=False)
        self.kv_proj = nn.Linear(widths[self.answers], config.kv_width, bias=False)
        self.out_proj = nn.Linear(config.width, d_model, bias=False)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the four matrices."""
        nn.init.normal_(self.q_proj.weight, std=std)
        nn.init.normal_(self.kv_proj.weight, std=std)
        nn.init.normal_(self.out_proj.weight, std=out_std)

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows: k, v."""
        return {"kv_proj.weight": (self.kv_proj.out_features // 2,) * 2}

    def forward(
        self, v: list[Tensor], segments: Segments | None, cache: KVCache | None, return_state: bool
    ) -> tuple[Tensor, KVCache | None]:
        """Combine v_i (B, T, w_i) into (B, T, d_model)."""
        q = self.q_proj(v[self.asks]).unflatten(-1, (self.n_heads, self.head_dim))
        kv = self.kv_proj(v[self.answers]).unflatten(-1, (2 * self.n_kv_heads, self.head_dim))
        key, value = kv.chunk(2, dim=2)
        o, cache = attention(
            q, key, value, segments=segments, cache=cache, return_state=return_state
        )
        o = o.flatten(2)
        if self.residual:
            o = o + v[self.asks]
        return self.out_proj(o), cache


def _build_combine(
    fusion: Fusion, sublayer: Sublayer, widths: list[int], d_model: int
) -> Weighted | Concat | CrossAttention:
    if fusion.cross is not None:
        return CrossAttention(fusion.cross, fusion.roles(sublayer.branches), widths, d_model)
    if fusion.combine == "concat":
        return Concat(widths, d_model)
    n = len(widths)
    coefficients = {"mean": [1 / n] * n, "add": [1.0] * n, "subtract": [1.0, -1.0]}
    projected = widths if fusion.projection == "separate" else widths[:1]
    return Weighted(coefficients[fusion.combine], projected, d_model)
