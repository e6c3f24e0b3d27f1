"""The KV cache: one row per document, filled from the left, written in place where that is safe."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.segments import Segments


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far; places from `length` on hold nothing.

    Without gradients a cache that is passed to `attention` is donated: its free places are written.
    Clone it first to continue one prefix in two ways.
    """

    k: Tensor
    """(n_docs, S, Hkv, D), S the capacity"""
    v: Tensor
    """(n_docs, S, Hkv, Dv)"""
    length: Tensor
    """(n_docs,) int64, tokens held"""


def by_document(x: Tensor, segments: Segments | None) -> Tensor:
    """(B, T, ...) -> (n_docs, L, ...): documents from the left, L the longest; then zeros."""
    if segments is None:
        return x
    index, is_real = places(segments)
    taken = x.flatten(0, 1)[index]
    return taken.masked_fill(~is_real.view(*is_real.shape, *(1,) * (x.dim() - 2)), 0)


def places(segments: Segments) -> tuple[Tensor, Tensor]:
    """Where each token of each document lies in the flattened batch.

    Returns:
        index (n_docs, L) int64 and is_real (n_docs, L) bool; index is the document's last token
        behind its end.
    """
    within = torch.arange(segments.max_length, device=segments.starts.device)
    is_real = within < segments.lengths[:, None]
    first = segments.rows * segments.shape[1] + segments.starts
    return first[:, None] + within.minimum(segments.lengths[:, None] - 1), is_real


def extend(cache: KVCache | None, k: Tensor, v: Tensor, segments: Segments | None) -> KVCache:
    """The cache with the new keys (B, T, Hkv, D) and values (B, T, Hkv, Dv) behind the old ones."""
    new_k, new_v = by_document(k, segments), by_document(v, segments)
    n_docs, n_new = new_k.shape[:2]
    if segments is None:
        added = torch.full((n_docs,), n_new, dtype=torch.int64, device=k.device)
    else:
        added = segments.lengths
    if cache is None:
        return KVCache(new_k.contiguous(), new_v.contiguous(), added.clone())
    length = cache.length + added
    longest = int(length.max()) if n_docs else 0
    if torch.is_grad_enabled() and any(t.requires_grad for t in (k, v, cache.k, cache.v)):
        return _joined(cache, new_k, new_v, length, longest)
    old_k, old_v = _with_room(cache.k, longest), _with_room(cache.v, longest)
    _write(old_k, new_k, cache.length, added, segments)
    _write(old_v, new_v, cache.length, added, segments)
    return KVCache(old_k, old_v, length)


def _with_room(held: Tensor, needed: int) -> Tensor:
    """`held` itself if it has `needed` places, otherwise a copy of at least twice its capacity."""
    capacity = held.shape[1]
    if needed <= capacity:
        return held
    grown = held.new_zeros(held.shape[0], max(needed, 2 * capacity), *held.shape[2:])
    grown[:, :capacity] = held
    return grown


def _write(held: Tensor, new: Tensor, at: Tensor, added: Tensor, segments: Segments | None) -> None:
    """Write each document's new entries (n_docs, L, ...) at its own length, in place."""
    document = torch.arange(len(held), device=held.device)[:, None]
    within = torch.arange(new.shape[1], device=held.device)
    place = at[:, None] + within
    if segments is None:
        held[document, place] = new.to(held.dtype)
        return
    # Behind a document's end its last entry is written again, at the same place.
    last = (added - 1)[:, None]
    inside = within.minimum(last)
    held[document, at[:, None] + inside] = new[document, inside].to(held.dtype)


def _joined(cache: KVCache, new_k: Tensor, new_v: Tensor, length: Tensor, longest: int) -> KVCache:
    """A new cache of `longest` places, through which gradients flow to old and new entries."""
    place = torch.arange(longest, device=length.device)
    old = cache.length[:, None]
    is_old = place < old
    is_held = place < length[:, None]
    capacity, n_new = cache.k.shape[1], new_k.shape[1]
    source = torch.where(is_old, place, capacity + (place - old).clamp(0, n_new - 1))
    document = torch.arange(len(source), device=source.device)[:, None]
    joined = []
    for held, new in ((cache.k, new_k), (cache.v, new_v)):
        taken = torch.cat((held, new.to(held.dtype)), dim=1)[document, source]
        joined.append(taken.masked_fill(~is_held[..., None, None], 0))
    return KVCache(joined[0], joined[1], length)
