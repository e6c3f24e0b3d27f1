"""Hymba as a whole model, written once more from its published equations, without ours.

transformers has no such family and the published code needs a GPU. Weights are laid out as in that
code: one input matrix [q; k; v; x; gate] per layer, of which a layer that borrows keys has no k, v.
Masks are full tables, the scan is a loop over tokens, and the meta tokens are plain first rows.

Source: Dong et al. 2024 (arXiv 2411.13676), section 2, and for what it leaves open (the norms of
    dt, B and C, where rotations and norms stand) the code published with the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Keys = tuple[Tensor, Tensor]


class Sizes(NamedTuple):
    """Layers as letters: f full attention, w under a window, b the keys of the last w."""

    layers: str = "fwbfwbbf"
    vocab: int = 37
    width: int = 24
    inner: int = 48
    n_heads: int = 4
    n_kv_heads: int = 2
    n_state: int = 7
    dt_rank: int = 5
    n_conv: int = 3
    d_ff: int = 20
    n_meta: int = 3
    window: int = 4
    theta: float = 50.0
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.width // self.n_heads

    @property
    def rows(self) -> dict[str, int]:
        """Rows of the input matrix of a layer with keys of its own, in order."""
        k, v = self.n_kv_heads * self.head_dim, self.n_kv_heads * self.inner // self.n_heads
        return {"q": self.width, "k": k, "v": v, "x": self.inner, "gate": self.inner}


def rows_of(sizes: Sizes, kind: str) -> dict[str, int]:
    """Rows of the input matrix of a layer of this kind."""
    return {k: n for k, n in sizes.rows.items() if kind != "b" or k not in ("k", "v")}


class Norm(nn.Module):
    """x / sqrt(mean x^2 + eps), weighted."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


def turned(heads: Tensor, theta: float) -> Tensor:
    """Rotate (B, T, H, P) by the place in the row, meta tokens counted."""
    half = heads.shape[-1] // 2
    rate = torch.tensor([theta ** (-i / half) for i in range(half)], dtype=torch.float32)
    angle = torch.arange(heads.shape[1])[:, None, None] * rate.double()
    a, b = heads[..., :half], heads[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


class Layer(nn.Module):
    """x + W_out (Norm_1(attention) + Norm_2(scan)) / 2 of a normed x, then a gated MLP."""

    def __init__(self, sizes: Sizes, kind: str) -> None:
        super().__init__()
        s, self.sizes, self.kind = sizes, sizes, kind
        self.input_norm, self.mlp_norm = Norm(s.width, s.eps), Norm(s.width, s.eps)
        self.in_proj = nn.Linear(s.width, sum(rows_of(s, kind).values()), bias=False)
        self.conv = nn.Conv1d(s.inner, s.inner, s.n_conv, groups=s.inner, padding=s.n_conv - 1)
        self.x_proj = nn.Linear(s.inner, s.dt_rank + 2 * s.n_state, bias=False)
        self.dt_proj = nn.Linear(s.dt_rank, s.inner)
        self.dt_norm = Norm(s.dt_rank, s.eps)
        self.b_norm, self.c_norm = Norm(s.n_state, s.eps), Norm(s.n_state, s.eps)
        self.A_log = nn.Parameter(torch.arange(1.0, s.n_state + 1).log().repeat(s.inner, 1))
        self.D = nn.Parameter(torch.ones(s.inner))
        self.attention_norm, self.scan_norm = Norm(s.inner, s.eps), Norm(s.inner, s.eps)
        self.out_proj = nn.Linear(s.inner, s.width, bias=False)
        self.gate_proj = nn.Linear(s.width, s.d_ff, bias=False)
        self.up_proj = nn.Linear(s.width, s.d_ff, bias=False)
        self.down_proj = nn.Linear(s.d_ff, s.width, bias=False)

    def forward(self, x: Tensor, lent: Keys | None) -> tuple[Tensor, Keys]:
        """Return the stream, and the keys (turned) and values that the attention has asked."""
        rows = rows_of(self.sizes, self.kind)
        split = self.in_proj(self.input_norm(x)).split(list(rows.values()), dim=-1)
        part = dict(zip(rows, split, strict=True))
        if self.kind != "b":
            k = part["k"].unflatten(-1, (self.sizes.n_kv_heads, -1))
            lent = turned(k, self.sizes.theta), part["v"].unflatten(-1, (self.sizes.n_kv_heads, -1))
        assert lent is not None
        attended = self.attention_norm(self.attention(part["q"], *lent))
        scanned = self.scan_norm(self.scan(part["x"], part["gate"]))
        x = x + self.out_proj((attended + scanned) / 2)
        u = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(u)) * self.up_proj(u)), lent

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, T, width) over k (B, T, h_kv, P) and v (B, T, h_kv, 2 P)."""
        s, n = self.sizes, q.shape[1]
        q = turned(q.unflatten(-1, (s.n_heads, -1)), s.theta)
        k, v = (y.repeat_interleave(s.n_heads // s.n_kv_heads, dim=2) for y in (k, v))
        scores = torch.einsum("bihp,bjhp->bhij", q, k) / s.head_dim**0.5
        i, j = torch.arange(n)[:, None], torch.arange(n)
        seen = j <= i
        if self.kind != "f":
            seen = seen & ((i - j < s.window) | (j < s.n_meta))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("bhij,bjhp->bihp", weights, v).flatten(2)

    def scan(self, x: Tensor, gate: Tensor) -> Tensor:
        """h_t = exp(dt A) h_{t-1} + dt B x_t; y_t = C h_t + D x_t, times SiLU(gate)."""
        n = x.shape[1]
        x = F.silu(self.conv(x.transpose(1, 2))[..., :n]).transpose(1, 2)
        sizes = [self.sizes.dt_rank, self.sizes.n_state, self.sizes.n_state]
        dt, b, c = self.x_proj(x).split(sizes, dim=-1)
        dt = F.softplus(self.dt_proj(self.dt_norm(dt)))
        b, c = self.b_norm(b), self.c_norm(c)
        rate = -self.A_log.exp()
        h, out = torch.zeros(x.shape[0], *rate.shape, dtype=x.dtype), []
        for t in range(n):
            h = (dt[:, t, :, None] * rate).exp() * h
            h = h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
            out.append((h * c[:, t, None]).sum(-1) + self.D * x[:, t])
        return torch.stack(out, dim=1) * F.silu(gate)


class Hymba(nn.Module):
    """Logits (B, T, vocab) of tokens (B, T)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocab, sizes.width)
        self.meta = nn.Parameter(torch.randn(sizes.n_meta, sizes.width))
        self.layers = nn.ModuleList(Layer(sizes, kind) for kind in sizes.layers)
        self.norm = Norm(sizes.width, sizes.eps)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat((self.meta.expand(len(ids), -1, -1), self.embedding(ids)), dim=1)
        lent: Keys | None = None
        for layer in self.layers:
            x, keys = layer(x, lent)
            lent = keys if layer.kind == "w" else lent
        x = self.norm(x[:, self.sizes.n_meta :])
        return x @ self.embedding.weight.T
