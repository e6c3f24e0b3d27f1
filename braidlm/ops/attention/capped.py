"""Attention with capped scores, in blocks of queries: no fused kernel of torch knows the cap.

z = cap tanh(s / cap) with s = scale q k^T; p = exp(z - lse), lse over the keys and the sink logit;
o = p v. Backwards, with delta = d_o . o: d_z = p (d_o v^T - delta), d_s = d_z (1 - tanh^2), and for
the sink, whose value is zero, -exp(sink - lse) delta. Scores are computed again and never kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.arch.mixers.tiles import QUERY_BLOCK
from braidlm.ops.dispatch import state_dtype


def capped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink_logits: Tensor | None,
    mask: Tensor | None,
    scale: float,
    cap: float,
    *,
    causal: bool,
) -> Tensor:
    """Attention of (n, L, Hq, D) over (n, S, Hkv, D) and (n, S, Hkv, Dv) -> (n, L, Hq, Dv).

    `mask` is broadcast to (n, Hq, L, S); a causal call is cut into blocks of queries, each over the
    keys up to its last one.
    """
    if not causal:
        return _tile(q, k, v, sink_logits, mask, scale, cap)
    outputs = []
    for start in range(0, q.shape[1], QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, q.shape[1])
        place = torch.arange(stop, device=q.device)
        seen = place <= place[start:, None]
        block = q[:, start:stop], k[:, :stop], v[:, :stop]
        outputs.append(_tile(*block, sink_logits, seen, scale, cap))
    return torch.cat(outputs, dim=1)


def _tile(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink_logits: Tensor | None,
    mask: Tensor | None,
    scale: float,
    cap: float,
) -> Tensor:
    """Heads that share keys become more queries of one matrix product."""
    n, length, n_heads, _ = q.shape
    n_kv_heads = k.shape[2]
    q = q.transpose(1, 2).unflatten(1, (n_kv_heads, -1))
    sink = None if sink_logits is None else sink_logits.view(n_kv_heads, -1, 1, 1)
    if mask is not None:
        mask = mask.expand(n, 1, *mask.shape[-2:]).unsqueeze(2)
    o = _Capped.apply(q, k.transpose(1, 2), v.transpose(1, 2), sink, mask, scale, cap)
    return o.reshape(n, n_heads, length, -1).transpose(1, 2)  # type: ignore[union-attr]


class _Capped(torch.autograd.Function):
    """q (n, H, G, L, D), k (n, H, S, D), v (n, H, S, Dv), sink (H, G, 1, 1) -> (n, H, G, L, Dv)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: Tensor | None,
        mask: Tensor | None,
        scale: float,
        cap: float,
    ) -> Tensor:
        tanh = _tanh(q, k, scale, cap)
        scores = _masked(cap * tanh, mask)
        lse = scores.logsumexp(-1, keepdim=True)
        if sink is not None:
            lse = torch.logaddexp(lse, sink.to(lse.dtype))
        o = _over_keys((scores - lse).exp(), v)
        ctx.scale, ctx.cap = scale, cap
        ctx.save_for_backward(q, k, v, sink, mask, lse, o)
        return o.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, d_o: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, sink, mask, lse, o = ctx.saved_tensors
        d_o = d_o.to(o.dtype)
        tanh = _tanh(q, k, ctx.scale, ctx.cap)
        p = (_masked(ctx.cap * tanh, mask) - lse).exp()
        delta = (d_o * o).sum(-1, keepdim=True)
        d_v = _over_queries(p, d_o)
        d_p = _over_keys(d_o, v.transpose(-1, -2))
        d_s = p * (d_p - delta) * (1 - tanh.square()) * ctx.scale
        d_q, d_k = _over_keys(d_s, k), _over_queries(d_s, q)
        d_sink = None
        if sink is not None:
            d_sink = -((sink.to(lse.dtype) - lse).exp() * delta).sum((0, 3), keepdim=True)[0]
            d_sink = d_sink.to(sink.dtype)
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), d_sink, None, None, None


def _tanh(q: Tensor, k: Tensor, scale: float, cap: float) -> Tensor:
    """tanh(scale q k^T / cap) (n, H, G, L, S), in at least fp32."""
    wide = state_dtype(q.dtype)
    flat = q.to(wide).flatten(2, 3) @ k.to(wide).transpose(-1, -2)
    return flat.mul_(scale / cap).tanh_().unflatten(2, q.shape[2:4])


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.masked_fill_(~mask, -torch.inf)


def _over_keys(x: Tensor, y: Tensor) -> Tensor:
    """(n, H, G, L, S) times (n, H, S, W) -> (n, H, G, L, W)."""
    return (x.flatten(2, 3) @ y.to(x.dtype)).unflatten(2, x.shape[2:4])


def _over_queries(x: Tensor, y: Tensor) -> Tensor:
    """Transpose of (n, H, G, L, S) times (n, H, G, L, W) -> (n, H, S, W)."""
    return x.flatten(2, 3).transpose(-1, -2) @ y.to(x.dtype).flatten(2, 3)
