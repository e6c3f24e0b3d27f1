"""The truth of attention: an explicit softmax, one document at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, Window, extend
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.attention.ring import extend_ring, place_of
from braidlm.segments import Segments


def attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scoring: Scoring,
    window: Window | None,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """softmax(cap(scale * q k^T)) v over the tokens that each query sees; see `attention`."""
    spans = segments.spans if segments is not None else [(r, 0, q.shape[1]) for r in range(len(q))]
    o = q.new_zeros(*q.shape[:3], v.shape[3])
    for d, (row, start, length) in enumerate(spans):
        here = slice(start, start + length)
        keys, values, seen = k[row, here], v[row, here], 0
        position = torch.arange(length, device=q.device)
        if cache is not None:
            seen = int(cache.length[d])
            past, place = _held(seen, window, q.device)
            keys = torch.cat((cache.k[d, place].to(k.dtype), keys))
            values = torch.cat((cache.v[d, place].to(v.dtype), values))
            position = torch.cat((past, position + seen))
        is_seen = _is_seen(position[-length:, None], position, window)
        o[row, here] = _document(q[row, here], keys, values, is_seen, scoring)
    if not return_state:
        return o, None
    if window is None:
        return o, extend(cache, k, v, segments)
    return o, extend_ring(cache, k, v, segments, window)


def _held(seen: int, window: Window | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the tokens that a cache holds of `seen`, and their places in it."""
    position = torch.arange(seen, device=device)
    if window is None:
        return position, position
    kept = (position < window.n_sinks) | (position >= seen - window.size)
    return position[kept], place_of(position[kept], window)


def _is_seen(asking: Tensor, asked: Tensor, window: Window | None) -> Tensor:
    """Whether the query at position `asking` sees the key at position `asked`."""
    if window is None:
        return asked <= asking
    return (asked <= asking) & ((asking - asked < window.size) | (asked < window.n_sinks))


def _document(q: Tensor, k: Tensor, v: Tensor, is_seen: Tensor, scoring: Scoring) -> Tensor:
    """(L, Hq, D), (S, Hkv, D), (S, Hkv, Dv) and (L, S) bool -> (L, Hq, Dv)."""
    per_kv_head = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(per_kv_head, dim=1).transpose(0, 1) for x in (k, v))
    scores = scoring.scale * (q.transpose(0, 1) @ k.transpose(1, 2))
    if scoring.softcap is not None:
        scores = scoring.softcap * (scores / scoring.softcap).tanh()
    scores = scores.masked_fill(~is_seen, -torch.inf)
    if scoring.sink_logits is not None:
        sinks = scoring.sink_logits.to(scores.dtype)[:, None, None].expand(-1, q.shape[0], 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(-1)[..., : k.shape[1]]
    return (weights @ v).transpose(0, 1)
