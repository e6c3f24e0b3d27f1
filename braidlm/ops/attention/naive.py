"""The truth of attention: an explicit softmax, one document at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, extend
from braidlm.segments import Segments


def attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scale: float,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """softmax(scale * q k^T) v over the document's past and present; see `attention`."""
    spans = segments.spans if segments is not None else [(r, 0, q.shape[1]) for r in range(len(q))]
    o = q.new_zeros(*q.shape[:3], v.shape[3])
    held = [0] * len(spans) if cache is None else cache.length.tolist()
    for d, (row, start, length) in enumerate(spans):
        here = slice(start, start + length)
        keys, values = k[row, here], v[row, here]
        if cache is not None:
            keys = torch.cat((cache.k[d, : held[d]].to(k.dtype), keys))
            values = torch.cat((cache.v[d, : held[d]].to(v.dtype), values))
        o[row, here] = _document(q[row, here], keys, values, scale)
    return o, (extend(cache, k, v, segments) if return_state else None)


def _document(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(L, Hq, D), (S, Hkv, D), (S, Hkv, Dv) -> (L, Hq, Dv); the queries are the last L of S."""
    n_new, n_all = q.shape[0], k.shape[0]
    per_kv_head = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(per_kv_head, dim=1).transpose(0, 1) for x in (k, v))
    scores = scale * (q.transpose(0, 1) @ k.transpose(1, 2))
    future = torch.ones(n_new, n_all, dtype=torch.bool, device=q.device).triu(n_all - n_new + 1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return (weights @ v).transpose(0, 1)
