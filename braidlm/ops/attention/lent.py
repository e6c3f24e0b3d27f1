"""Keys and values of one call, lent to other queries over the same tokens.

A later sublayer may ask what an earlier one has written. Its call is the earlier one's with other
queries: it finds the same cache before it, and writing the same entries again changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from braidlm.ops.attention.cache import KVCache


class Lent(NamedTuple):
    """What `attention` takes of another call; the cache that it gives back stays the owner's."""

    k: Tensor
    """(B, T, Hkv, D): the new keys, normed and with positions encoded"""
    v: Tensor
    """(B, T, Hkv, Dv)"""
    cache: KVCache | None
    """What was held before the new ones."""


def kept(cache: KVCache | None, n_new: int, window: int | None) -> KVCache | None:
    """Return the cache as it is before a call of `n_new` tokens per row.

    Several new tokens write over places of a ring that their own early queries see.
    """
    if cache is None or window is None or n_new == 1:
        return cache
    return type(cache)(cache.k.clone(), cache.v.clone(), cache.length)


def lend(
    k: Tensor, v: Tensor, before: KVCache | None, after: KVCache | None, window: int | None
) -> Lent:
    """Return what a call lends, with `before` from `kept` and `after` from `attention`.

    Without a window the extended cache holds the old entries where they were, and has the room.
    """
    if before is None or after is None or window is not None:
        return Lent(k, v, before)
    return Lent(k, v, type(after)(after.k, after.v, before.length))
