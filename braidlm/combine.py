"""What makes one output of the branches of a parallel sublayer: one module per operator.

Every module takes the branches' normed and scaled outputs v_i (B, T, w_i) and the sublayer's normed
input x (B, T, d_model), and owns the output projection(s) to d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from braidlm.arch import Sublayer
from braidlm.arch.cross import CrossAttention as CrossAttentionConfig
from braidlm.arch.mixers import MixerConfig
from braidlm.mixers.reading import Scores
from braidlm.ops.attention import KVCache, attention, reserve
from braidlm.ops.rope import apply_rope, rope_frequencies
from braidlm.ops.scaled import scaled
from braidlm.segments import Segments, token_positions


class Weighted(nn.Module):
    """sum_i c_i W_i v_i, or W sum_i c_i v_i when there is one projection: mean, add, subtract."""

    def __init__(
        self, coefficients: Sequence[float], branches: Sequence[MixerConfig], d_model: int
    ) -> None:
        super().__init__()
        self.coefficients = tuple(coefficients)
        self.out_multipliers = tuple(b.out_multiplier for b in branches)
        self.out_projs = nn.ModuleList(
            nn.Linear(b.width, d_model, bias=b.out_bias) for b in branches
        )

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the projections."""
        for proj in self.out_projs:
            nn.init.normal_(proj.weight, std=out_std)  # pyright: ignore[reportArgumentType]
            if proj.bias is not None:
                nn.init.zeros_(proj.bias)  # pyright: ignore[reportArgumentType]

    @property
    def summands(self) -> list[tuple[nn.Linear, float]]:
        """The projection of each branch and what it is multiplied by, where the output is no more
        than the sum of that; else none."""
        if len(self.out_projs) == 1 or not self.coefficients:
            return []
        factors = zip(self.coefficients, self.out_multipliers, strict=True)
        return [(p, c * m) for p, (c, m) in zip(self.out_projs, factors, strict=True)]  # pyright: ignore[reportReturnType]

    def forward(
        self,
        v: list[Tensor],
        x: Tensor,
        segments: Segments | None,
        cache: None,
        return_state: bool,
    ) -> tuple[Tensor, None]:
        """Combine v_i (B, T, w_i) into (B, T, d_model)."""
        if len(self.out_projs) == 1:
            return self.out_projs[0](self._sum(v, x)), None
        parts = zip(self.out_projs, v, self.out_multipliers, strict=True)
        return self._sum([scaled(proj(u), m) for proj, u, m in parts], x), None

    def _sum(self, terms: list[Tensor], x: Tensor) -> Tensor:
        total = terms[0] * self.coefficients[0] if self.coefficients[0] != 1 else terms[0]
        for term, coefficient in zip(terms[1:], self.coefficients[1:], strict=True):
            total = torch.add(total, term, alpha=coefficient)
        return total


class Gated(Weighted):
    """g W_1 v_1 + (1 - g) W_2 v_2, or W (g v_1 + (1 - g) v_2), with g = sigmoid(W_g x + b).

    Source: Bae et al. 2025 (arXiv 2510.04800), routing probe: a * SSM + (1 - a) * attention.
    """

    def __init__(self, n_gates: int, branches: Sequence[MixerConfig], d_model: int) -> None:
        super().__init__((), branches, d_model)
        self.gate_proj = nn.Linear(d_model, n_gates)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the matrices; without bias both branches weigh the same on average."""
        super().reset_parameters(std, out_std)
        nn.init.normal_(self.gate_proj.weight, std=std)
        nn.init.zeros_(self.gate_proj.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return g (B, T, n_gates), the share of the first branch."""
        return self.gate_proj(x).sigmoid()

    def _sum(self, terms: list[Tensor], x: Tensor) -> Tensor:
        return terms[1] + self.gate(x) * (terms[0] - terms[1])


class Concat(nn.Module):
    """W [v_1; v_2; ...]."""

    def __init__(self, widths: Sequence[int], d_model: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(sum(widths), d_model, bias=False)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the projection."""
        nn.init.normal_(self.out_proj.weight, std=out_std)

    def forward(
        self,
        v: list[Tensor],
        x: Tensor,
        segments: Segments | None,
        cache: None,
        return_state: bool,
    ) -> tuple[Tensor, None]:
        """Combine v_i (B, T, w_i) into (B, T, d_model)."""
        return self.out_proj(torch.cat(v, dim=-1)), None


class CrossAttention(nn.Module):
    """W_o softmax(q k^T) v: queries from one branch, keys and values from the other, causal.

    Source: Lee et al. 2025 (arXiv 2510.26912), queries from the attention branch.
    """

    inv_freq: Tensor
    n_streams = 1
    """Places of the cache that one token takes."""

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
        self.head_dim = config.head_dim
        self.residual, self.answer_residual = config.residual, config.answer_residual
        self.rope_theta = config.rope_theta
        self.window, self.n_sinks = config.places(self.n_streams)
        self.q_proj = nn.Linear(widths[self.asks], config.width, bias=False)
        self.kv_proj = nn.Linear(widths[self.answers], config.kv_width, bias=False)
        self.out_proj = nn.Linear(config.width, d_model, bias=False)
        n_frequencies = config.head_dim // 2 if config.position == "rope" else 0
        self.register_buffer("inv_freq", torch.empty(n_frequencies), persistent=False)
        self._fill_frequencies()

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Draw the four matrices; recompute the rotary frequencies."""
        nn.init.normal_(self.q_proj.weight, std=std)
        nn.init.normal_(self.kv_proj.weight, std=std)
        nn.init.normal_(self.out_proj.weight, std=out_std)
        self._fill_frequencies()

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows: k, v."""
        return {"kv_proj.weight": (self.kv_proj.out_features // 2,) * 2}

    def reserve(self, cache: KVCache, n_tokens: int) -> KVCache:
        """Return a cache with room for `n_tokens` more per document."""
        span = None if self.window is None else self.window + self.n_sinks
        return reserve(cache, self.n_streams * n_tokens, span)

    def _fill_frequencies(self) -> None:
        if len(self.inv_freq):
            self.inv_freq.copy_(rope_frequencies(self.head_dim, self.rope_theta))

    def forward(
        self,
        v: list[Tensor],
        x: Tensor,
        segments: Segments | None,
        cache: KVCache | None,
        return_state: bool,
    ) -> tuple[Tensor, KVCache | None]:
        """Combine v_i (B, T, w_i) into (B, T, d_model)."""
        asking, positions = self._asking(v), self._positions(x, segments, cache)
        q = self._queries(asking, positions)
        o, cache = self._attend(q, v, positions, segments, cache, return_state)
        o = o.flatten(2)
        o = o + asking if self.residual else o
        o = o + v[self.answers] if self.answer_residual else o
        return self.out_proj(o), cache

    def scores(self, v: list[Tensor], x: Tensor, segments: Segments | None) -> Scores:
        """Return what is compared, see `mixers.reading`."""
        positions = self._positions(x, segments, None)
        q, (k, _) = self._queries(self._asking(v), positions), self._asked(v, positions)
        far = None if self.window is None else self.window // self.n_streams
        return Scores(q, k, None, ((0, far),) * self.n_streams, self.n_sinks // self.n_streams)

    def _asking(self, v: list[Tensor]) -> Tensor:
        return v[self.asks]

    def _queries(self, asking: Tensor, positions: Tensor | None) -> Tensor:
        q = self.q_proj(asking).unflatten(-1, (self.n_heads, self.head_dim))
        return self._turned(q, positions)

    def _asked(self, v: list[Tensor], positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, n_streams T, h_kv, P)."""
        return self._keys_values(v[self.answers], positions)

    def _attend(
        self,
        q: Tensor,
        v: list[Tensor],
        positions: Tensor | None,
        segments: Segments | None,
        cache: KVCache | None,
        return_state: bool,
    ) -> tuple[Tensor, KVCache | None]:
        """Queries (B, T, h, P) over what the streams held -> (B, T, h, P) and the cache."""
        key, value = self._asked(v, positions)
        return attention(
            q,
            key,
            value,
            segments=segments,
            cache=cache,
            window=self.window,
            n_sinks=self.n_sinks,
            return_state=return_state,
        )

    def _keys_values(self, stream: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        kv = self.kv_proj(stream).unflatten(-1, (2 * self.n_kv_heads, self.head_dim))
        key, value = kv.chunk(2, dim=2)
        return self._turned(key, positions), value

    def _positions(
        self, x: Tensor, segments: Segments | None, cache: KVCache | None
    ) -> Tensor | None:
        """(B, T) positions in the whole document, where the encoding needs them."""
        if not len(self.inv_freq):
            return None
        offset = None if cache is None else cache.length // self.n_streams
        return token_positions(x.shape[0], x.shape[1], segments, offset, x.device)

    def _turned(self, heads: Tensor, positions: Tensor | None) -> Tensor:
        return heads if positions is None else apply_rope(heads, positions, self.inv_freq)


class MergeAttention(CrossAttention):
    """W_o softmax(q [k_1; k_2]^T) [v_1; v_2]: the mean of both streams asks, both answer.

    One matrix makes the keys and values of both streams. The streams are interleaved to 2 T places,
    so that one causal softmax covers both up to and including the token itself; a token asks at its
    second place, and what its first place would ask is thrown away.

    Source: "merge attention" of two streams, e.g. Dou et al. 2022 (arXiv 2111.02387).
    """

    n_streams = 2

    def _asking(self, v: list[Tensor]) -> Tensor:
        return (v[0] + v[1]) / 2

    def _asked(self, v: list[Tensor], positions: Tensor | None) -> tuple[Tensor, Tensor]:
        pairs = zip(*(self._keys_values(stream, positions) for stream in v), strict=True)
        key, value = (torch.stack(pair, dim=2).flatten(1, 2) for pair in pairs)
        return key, value

    def _attend(
        self,
        q: Tensor,
        v: list[Tensor],
        positions: Tensor | None,
        segments: Segments | None,
        cache: KVCache | None,
        return_state: bool,
    ) -> tuple[Tensor, KVCache | None]:
        key, value = self._asked(v, positions)
        o, cache = attention(
            torch.stack((torch.zeros_like(q), q), dim=2).flatten(1, 2),
            key,
            value,
            segments=None if segments is None else segments.doubled,
            cache=cache,
            window=self.window,
            n_sinks=self.n_sinks,
            return_state=return_state,
        )
        return o[:, 1::2], cache


def build(
    sublayer: Sublayer, widths: list[int], d_model: int
) -> Weighted | Concat | CrossAttention:
    """Return the module that combines the branches of a parallel sublayer."""
    fusion = sublayer.fusion
    assert fusion is not None
    if fusion.cross is not None:
        attends = MergeAttention if fusion.combine == "merge_attention" else CrossAttention
        return attends(fusion.cross, fusion.roles(sublayer.branches), widths, d_model)
    if fusion.combine == "concat":
        return Concat(widths, d_model)
    n = len(widths)
    projected = sublayer.branches if fusion.projection == "separate" else sublayer.branches[:1]
    if fusion.combine == "gate":
        return Gated(fusion.gate_width(sublayer.branches, d_model), projected, d_model)
    coefficients = {"mean": [1 / n] * n, "add": [1.0] * n, "subtract": [1.0, -1.0]}
    return Weighted(coefficients[fusion.combine], projected, d_model)
