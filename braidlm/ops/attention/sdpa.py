"""Attention by torch's scaled_dot_product_attention, without a mask of T x T entries.

README.md of this folder says which call is made when. Axes: n documents, L queries, S keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.arch.mixers.tiles import QUERY_BLOCK
from braidlm.ops.attention.band import Span, band
from braidlm.ops.attention.cache import (
    KVCache,
    Reserved,
    Window,
    by_document,
    extend,
    n_added,
    places,
    take,
)
from braidlm.ops.attention.kernel import Scoring, call
from braidlm.ops.attention.ring import extend_ring, unrolled
from braidlm.segments import Buckets, Segments, bucketed

Pieces = list[tuple[Tensor, Tensor]]
"""Places (n,) in the flattened result, and the result there (n, Hq, Dv)."""


def attention_sdpa(
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
    """Causal attention inside documents; see `attention` for the arguments."""
    if cache is None:
        o = _fresh(q, k, v, segments, scoring, window)
        return o, (_extend(None, k, v, segments, window) if return_state else None)
    asked = by_document(q, segments)
    if not len(asked):
        return q.new_zeros(*q.shape[:3], v.shape[3]), (cache if return_state else None)
    if window is not None and asked.shape[1] > 1:
        # Before the ring is written: early queries still see what late tokens write over.
        new_k, new_v = by_document(k, segments), by_document(v, segments)
        o = _over_ring(asked, new_k, new_v, cache, n_added(new_k, segments), scoring, window)
        extended = _extend(cache, k, v, segments, window) if return_state else None
    else:
        extended = _extend(cache, k, v, segments, window)
        over = over_cache if window is None else step_over_ring
        o = over(asked, cache.length, extended, scoring)
    o = o if segments is None else to_rows(o, segments)
    return o, (extended if return_state else None)


def _extend(
    cache: KVCache | None, k: Tensor, v: Tensor, segments: Segments | None, window: Window | None
) -> KVCache:
    if window is None:
        return extend(cache, k, v, segments)
    return extend_ring(cache, k, v, segments, window)


def _fresh(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments | None,
    scoring: Scoring,
    window: Window | None,
) -> Tensor:
    """Without a cache: (B, T, Hq, Dv), zeros at padding."""
    batch, length = q.shape[:2]
    if segments is None and (window is None or length <= window.span):
        return call(q, k, v, scoring, causal=True)
    flat = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    most = None if window is None else window.span
    if segments is not None:
        buckets, table = segments.similar(most), segments.spans
    else:
        table = [(row, 0, length) for row in range(batch)]
        firsts = [row * length for row in range(batch)]
        shortened = length if most is None else min(length, most)
        buckets = bucketed(firsts, [shortened] * batch, q.device)
    pieces = by_buckets(*flat, buckets, scoring)
    if window is not None:
        spans = [Span(row * length + start, row * length + start, 0, n) for row, start, n in table]
        pieces += band(*flat, spans, scoring, window)
    return assembled(pieces, q, v.shape[3])


def by_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, scoring: Scoring) -> Pieces:
    """Causal attention inside each run of `buckets`: no query sees the padding behind another.

    One gather serves all blocks, and its gradient is added up once.
    """
    sizes = [n * length for n, length in buckets.shapes]
    parts = [take(x, buckets.index).split(sizes) for x in (q, k, v)]
    found = []
    for shape, *block in zip(buckets.shapes, *parts, strict=True):
        q, k, v = (x.unflatten(0, shape) for x in block)
        found.append(call(q, k, v, scoring, causal=True))
    if not found:
        return []
    return [(buckets.places, take(torch.cat([o.flatten(0, 1) for o in found]), buckets.real))]


def assembled(pieces: Pieces, q: Tensor, v_width: int) -> Tensor:
    """Pieces in their places: (B, T, Hq, Dv), zeros elsewhere."""
    o = q.new_zeros(q.shape[0] * q.shape[1], q.shape[2], v_width)
    if pieces:
        order, found = zip(*pieces, strict=True)
        o = o.index_copy(0, torch.cat(order), torch.cat(found))
    return o.view(*q.shape[:3], v_width)


def to_rows(o: Tensor, segments: Segments) -> Tensor:
    """(n_docs, L, H, Dv) by document -> (B, T, H, Dv), zeros at padding."""
    index, is_real = places(segments)
    rows = o.new_zeros(segments.doc.numel(), *o.shape[2:])
    rows = rows.index_copy(0, index[is_real], o[is_real])
    return rows.view(*segments.shape, *o.shape[2:])


def over_cache(q: Tensor, before: Tensor, cache: KVCache, scoring: Scoring) -> Tensor:
    """Queries (n, L, Hq, D) whose first one follows `before` (n,) held tokens of its document."""
    is_reserved = isinstance(cache, Reserved)
    held = [cache.k.shape[1]] if is_reserved else before.tolist()
    is_even = min(held) == max(held) and not is_reserved
    n_new = q.shape[1]
    if is_even and held[0] == 0:
        return call(q, cache.k[:, :n_new], cache.v[:, :n_new], scoring, causal=True)
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
        outputs.append(call(q[:, start:stop], k, v, scoring, mask, causal=False))
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]


def step_over_ring(q: Tensor, before: Tensor, cache: KVCache, scoring: Scoring) -> Tensor:
    """One query per document (n, 1, Hq, D) over a ring that already holds its own token."""
    place = torch.arange(cache.k.shape[1], device=q.device)
    mask = (place <= before[:, None])[:, None, None]
    # Elsewhere than on the CPU the question would make the host wait; the mask costs less.
    is_asked = q.device.type == "cpu" and not isinstance(cache, Reserved)
    if is_asked and bool(mask.all()):
        mask = None
    return call(q, cache.k.to(q.dtype), cache.v.to(q.dtype), scoring, mask, causal=False)


def _over_ring(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: KVCache,
    added: Tensor,
    scoring: Scoring,
    window: Window,
) -> Tensor:
    """Queries and new entries (n, L, ...) by document over the ring before them and themselves.

    Laid out by position, what a ring holds and what is new is a document of its own: a full one
    starts with the sinks and the whole window before the first query.
    """
    n_docs, n_new = q.shape[:2]
    held = cache.length.clamp_max(window.span)
    sizes = list(zip(held.tolist(), added.tolist(), strict=True))
    longest = max((old + new for old, new in sizes), default=0)
    k, v = unrolled(cache, k, v, longest, window)
    spans = [Span(d * n_new, d * longest, old, new) for d, (old, new) in enumerate(sizes)]
    flat = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    pieces = band(*flat, spans, scoring, window)
    head = [min(new, max(window.span - old, 0)) for old, new in sizes]
    if max(head, default=0):
        first = KVCache(k[:, : window.span], v[:, : window.span], held)
        o = over_cache(q[:, : max(head)], held, first, scoring)
        within = torch.arange(max(head), device=q.device)
        is_real = within < torch.tensor(head, device=q.device)[:, None]
        index = torch.arange(n_docs, device=q.device)[:, None] * n_new + within
        pieces.append((index[is_real], o[is_real]))
    return assembled(pieces, q, v.shape[3])
