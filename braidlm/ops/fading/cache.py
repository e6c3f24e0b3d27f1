"""What fading attention remembers: own entries, faded entries that are seen, and those that wait.

The token at position p of its document lies at place p mod w of `seen`, with its own entry, until
its place is taken w tokens later. Its faded entry waits at the same place of `waiting` for so long:
then it moves to place w + p mod w of `seen`. So the places of `seen` fill from left to right, one
per token, and the query at position t sees its first t + 1 places, or all 2 w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, Reserved, reserve, with_room


class Entries(NamedTuple):
    """Keys and values of some tokens."""

    k: Tensor
    """(B, T, Hkv, D)"""
    v: Tensor
    """(B, T, Hkv, Dv)"""


class FadingCache(NamedTuple):
    """Two rings of entries, filled from the left; both count all tokens seen.

    Without gradients a cache that is passed on is donated, see `braidlm.ops.attention.KVCache`.
    """

    seen: KVCache
    """At most 2 w places: the last w tokens' own entries, and faded ones of the w before them"""
    waiting: KVCache
    """At most w places: the last w tokens' faded entries"""


def with_reserve(cache: FadingCache, n_tokens: int, window: int) -> FadingCache:
    """Return a cache with room for `n_tokens` more per document, see `ops.attention.reserve`."""
    seen = reserve(cache.seen, n_tokens, 2 * window)
    return FadingCache(seen, reserve(cache.waiting, n_tokens, window))


def written(cache: FadingCache, own: Entries, faded: Entries, window: int) -> FadingCache:
    """The cache after one more token per document, written in place.

    Args:
        cache: what is held, of n documents.
        own: (n, 1, ...).
        faded: (n, 1, ...).
        window: w.
    """
    cache = _with_room(cache, window)
    before = cache.seen.length
    document = torch.arange(len(before), device=before.device)
    here = before % window
    # Before the window is full nothing moves: what is written there, its own entry covers.
    there = torch.where(before < window, before, window + here)
    held = zip(cache.seen[:2], cache.waiting[:2], own, faded, strict=True)
    for seen, waiting, new, new_faded in held:
        seen[document, there] = waiting[document, here]
        seen[document, here] = new[:, 0].to(seen.dtype)
        waiting[document, here] = new_faded[:, 0].to(waiting.dtype)
    length = before + 1
    return FadingCache(*(type(ring)(ring.k, ring.v, length) for ring in cache))


def _with_room(cache: FadingCache, window: int) -> FadingCache:
    """The cache with a place for one more token; a full one, and a reserved one, is as it is."""
    if isinstance(cache.seen, Reserved) or cache.seen.k.shape[1] == 2 * window:
        return cache
    length = cache.seen.length
    longest = 1 + (int(length.max()) if len(length) else 0)
    return FadingCache(
        _grown(cache.seen, longest, 2 * window), _grown(cache.waiting, longest, window)
    )


def _grown(ring: KVCache, longest: int, most: int) -> KVCache:
    k, v = (with_room(held, min(longest, most), most) for held in ring[:2])
    return KVCache(k, v, ring.length)
