"""The KV cache of a sliding window: at most span = window + n_sinks places, a ring.

The token at position p of its document lies at place p while p < span; then at
n_sinks + (p - n_sinks) mod window, over the token that just left the window. So the sinks stay, and
until the window is full the places are those of a cache without a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.attention.cache import (
    KVCache,
    Reserved,
    Window,
    by_document,
    joined,
    may_write,
    n_added,
    take,
    with_room,
)
from braidlm.segments import Segments


def extend_ring(
    cache: KVCache | None, k: Tensor, v: Tensor, segments: Segments | None, window: Window
) -> KVCache:
    """The cache after new keys (B, T, Hkv, D) and values (B, T, Hkv, Dv)."""
    new_k, new_v = by_document(k, segments), by_document(v, segments)
    added = n_added(new_k, segments)
    if cache is None and new_k.shape[1] <= window.span:
        return KVCache(new_k.contiguous(), new_v.contiguous(), added.clone())
    if cache is None:
        no_k, no_v = (x.new_zeros(len(x), window.span, *x.shape[2:]) for x in (new_k, new_v))
        nothing = KVCache(no_k, no_v, torch.zeros_like(added))
        return _rewritten(nothing, new_k, new_v, added, window)
    length = cache.length + added
    capacity = cache.k.shape[1]
    # The host needs to know a length only while the ring may still have to grow.
    if capacity < window.span and not isinstance(cache, Reserved):
        capacity = max(capacity, min(int(length.max()) if len(length) else 0, window.span))
    if not may_write(cache, k, v):
        room = KVCache(_padded(cache.k, capacity), _padded(cache.v, capacity), cache.length)
        return _rewritten(room, new_k, new_v, length, window)
    old_k, old_v = (with_room(x, capacity, window.span) for x in cache[:2])
    room = KVCache(old_k, old_v, cache.length)
    kind = type(cache)
    if new_k.shape[1] == 1:
        _write_one(room, new_k, new_v, window)
        return kind(room.k, room.v, length)
    after = _rewritten(room, new_k, new_v, length, window)
    return kind(room.k.copy_(after.k), room.v.copy_(after.v), length)


def place_of(position: Tensor, window: Window) -> Tensor:
    """The place of the tokens at these positions of their document."""
    turned = window.n_sinks + (position - window.n_sinks) % window.size
    return torch.where(position < window.n_sinks, position, turned)


def unrolled(
    cache: KVCache, k: Tensor, v: Tensor, longest: int, window: Window
) -> tuple[Tensor, Tensor]:
    """Old and new entries of each document in the order of their positions.

    Args:
        cache: the ring before this call.
        k: (n_docs, L, Hkv, D), the new keys by document.
        v: (n_docs, L, Hkv, Dv).
        longest: entries of the longest document, held ones and new ones.
        window: what the ring was filled under.

    Returns:
        keys and values (n_docs, longest, ...), in the dtype of `k`: the sinks, what the window
        holds, then what is new. Behind a document's end an entry is repeated.
    """
    capacity = cache.k.shape[1]
    place = torch.arange(capacity, device=cache.length.device)
    # Of a full ring the oldest token lies where the next one will be written.
    turn = (cache.length - window.span).clamp_min(0)[:, None] % window.size
    turned = window.n_sinks + (place - window.n_sinks + turn) % window.size
    source = torch.where(place < window.n_sinks, place, turned)
    first = torch.arange(len(source), device=source.device)[:, None] * capacity
    n_held = cache.length.clamp_max(window.span)
    in_order = (take(x.flatten(0, 1), first + source).to(k.dtype) for x in cache[:2])
    old_k, old_v = in_order
    return joined(old_k, k, n_held, longest), joined(old_v, v, n_held, longest)


def _padded(held: Tensor, capacity: int) -> Tensor:
    """`held` with zeros behind it up to `capacity` places."""
    missing = capacity - held.shape[1]
    if not missing:
        return held
    return torch.cat((held, held.new_zeros(held.shape[0], missing, *held.shape[2:])), dim=1)


def _rewritten(
    cache: KVCache, new_k: Tensor, new_v: Tensor, length: Tensor, window: Window
) -> KVCache:
    """A new ring of the same capacity: each place takes the last token that was written there."""
    place = torch.arange(cache.k.shape[1], device=length.device)
    since = (length[:, None] - 1 - place).clamp_min(0)
    position = torch.where(place < window.n_sinks, place, place + since - since % window.size)
    index = position - cache.length[:, None]
    is_new = (index >= 0)[..., None, None]
    is_empty = (place >= length[:, None])[..., None, None]
    index = index.clamp(0, new_k.shape[1] - 1)
    index = index + torch.arange(len(index), device=index.device)[:, None] * new_k.shape[1]
    k, v = (
        torch.where(is_new, take(new.flatten(0, 1), index).to(held.dtype), held).masked_fill(
            is_empty, 0
        )
        for held, new in ((cache.k, new_k), (cache.v, new_v))
    )
    return KVCache(k, v, length)


def _write_one(cache: KVCache, new_k: Tensor, new_v: Tensor, window: Window) -> None:
    """Write one entry per document (n_docs, 1, ...) in place."""
    document = torch.arange(len(cache.length), device=cache.length.device)
    place = place_of(cache.length, window)
    cache.k[document, place] = new_k[:, 0].to(cache.k.dtype)
    cache.v[document, place] = new_v[:, 0].to(cache.v.dtype)
