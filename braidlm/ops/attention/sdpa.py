"""Attention by torch's scaled_dot_product_attention, without a mask of T x T entries.

README.md of this folder says which call is made when. Axes: n documents, L queries, S keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, by_document, extend, places
from braidlm.segments import Segments

QUERY_BLOCK = 256
"""Queries per call when a cache is continued: no mask is larger than this times the keys."""
BUCKET_RATIO = 1.25
"""Documents of one call differ in length by at most this factor; they are padded behind."""


def attention_sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scale: float,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """Causal attention inside documents; see `attention` for the arguments."""
    if cache is not None:
        extended = extend(cache, k, v, segments)
        o = _over_cache(by_document(q, segments), cache.length, extended, scale)
        o = o if segments is None else _to_rows(o, segments)
        return o, (extended if return_state else None)
    o = _call(q, k, v, scale, True) if segments is None else _by_buckets(q, k, v, segments, scale)
    return o, (extend(None, k, v, segments) if return_state else None)


def _call(
    q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool, mask: Tensor | None = None
) -> Tensor:
    """One SDPA call on (n, L, Hq, D), (n, S, Hkv, D), (n, S, Hkv, Dv) -> (n, L, Hq, Dv)."""
    width, v_width = q.shape[-1], v.shape[-1]
    if width != v_width:
        # The fused kernels want one width for all; zero channels change nothing.
        widest = max(width, v_width)
        q, k, v = (F.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
    o = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return o.transpose(1, 2)[..., :v_width]


def _by_buckets(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Documents of similar length in one causal call, padded behind: no query sees the padding."""
    pieces, order = [], []
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    for documents in _buckets([length for _, _, length in segments.spans]):
        index, is_real = _bucket_places(documents, segments)
        o = _call(*(x[index] for x in flat), scale, True)  # type: ignore[arg-type]
        pieces.append(o[is_real])
        order.append(index[is_real])
    o = q.new_zeros(flat[0].shape[0], q.shape[2], v.shape[3])
    if pieces:
        o = o.index_copy(0, torch.cat(order), torch.cat(pieces))
    return o.view(*q.shape[:3], v.shape[3])


def _buckets(lengths: list[int]) -> list[list[int]]:
    """Document numbers grouped so that lengths in a group differ by at most BUCKET_RATIO."""
    groups: list[list[int]] = []
    for d in sorted(range(len(lengths)), key=lambda d: -lengths[d]):
        if groups and lengths[groups[-1][0]] <= BUCKET_RATIO * lengths[d]:
            groups[-1].append(d)
        else:
            groups.append([d])
    return groups


def _bucket_places(documents: list[int], segments: Segments) -> tuple[Tensor, Tensor]:
    """Flat indices (n, L) of the documents' tokens, and which of them are real."""
    spans = [segments.spans[d] for d in documents]
    first = torch.tensor([row * segments.shape[1] + start for row, start, _ in spans])
    length = torch.tensor([n for _, _, n in spans])
    within = torch.arange(spans[0][2])
    index = first[:, None] + within.minimum(length[:, None] - 1)
    device = segments.doc.device
    return index.to(device), (within < length[:, None]).to(device)


def _to_rows(o: Tensor, segments: Segments) -> Tensor:
    """(n_docs, L, H, Dv) by document -> (B, T, H, Dv), zeros at padding."""
    index, is_real = places(segments)
    rows = o.new_zeros(segments.doc.numel(), *o.shape[2:])
    rows = rows.index_copy(0, index[is_real], o[is_real])
    return rows.view(*segments.shape, *o.shape[2:])


def _over_cache(q: Tensor, before: Tensor, cache: KVCache, scale: float) -> Tensor:
    """Queries (n, L, Hq, D) whose first one follows `before` (n,) held tokens of its document."""
    if not len(q):
        return q.new_zeros(*q.shape[:3], cache.v.shape[-1])
    held = before.tolist()
    is_even = min(held) == max(held)
    n_new = q.shape[1]
    if is_even and held[0] == 0:
        return _call(q, cache.k[:, :n_new], cache.v[:, :n_new], scale, True)
    outputs = []
    for start in range(0, n_new, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, n_new)
        n_keys = min(max(held) + stop, cache.k.shape[1])
        mask = None
        if stop - start > 1 or not is_even:
            place = torch.arange(n_keys, device=q.device)
            newest = torch.arange(start, stop, device=q.device)
            at = before[:1] if is_even else before
            mask = (place <= at[:, None, None] + newest[:, None])[:, None]
        k, v = cache.k[:, :n_keys].to(q.dtype), cache.v[:, :n_keys].to(q.dtype)
        outputs.append(_call(q[:, start:stop], k, v, scale, False, mask))
    return torch.cat(outputs, dim=1)
