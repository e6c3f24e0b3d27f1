"""The KV cache: one row per document, written in place where that is safe."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.segments import Segments


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, filled from the left.

    Of a sliding window only its tokens are held, see `braidlm.ops.attention.ring`. Without
    gradients a cache that is passed to `attention` is donated: its places are written. Clone it
    first to continue one prefix in two ways.
    """

    k: Tensor
    """(n_docs, S, Hkv, D), S the capacity; places from `length` on hold nothing"""
    v: Tensor
    """(n_docs, S, Hkv, Dv)"""
    length: Tensor
    """(n_docs,) int64, tokens seen: what the next token's position is counted from"""


RESERVED_PLACES = 256
"""Room is made in such steps: calls of similar length then share their shapes."""


class Reserved(KVCache):
    """A cache with a place for every token to come, see `reserve`.

    No call over it asks the host for a length, so that a step has one shape and one graph.
    """

    __slots__ = ()


def reserve(cache: KVCache, n_tokens: int, most: int | None = None) -> Reserved:
    """Return `cache` with room for more tokens, in multiples of `RESERVED_PLACES`.

    Every later call writes in place, so that gradients cannot flow. A token too many is an
    IndexError on a CPU and a failed assertion on a GPU.

    Args:
        cache: what is held; its length is read by the host, once.
        n_tokens: places needed per document beyond those that are taken.
        most: places that a window needs at most.
    """
    longest = (int(cache.length.max()) if len(cache.length) else 0) + n_tokens
    n_places = -(-longest // RESERVED_PLACES) * RESERVED_PLACES
    n_places = max(cache.k.shape[1], n_places if most is None else min(n_places, most))
    k, v = (with_room(held, n_places, n_places) for held in (cache.k, cache.v))
    return Reserved(k, v, cache.length)


def newest(cache: KVCache, n_tokens: int) -> KVCache:
    """Return the last `n_tokens` entries of each document at most, as a cache of these alone.

    Keys are as they were written: whoever wrote positions into them has to move these.
    """
    length = cache.length.clamp_max(n_tokens)
    n_places = max(1, min(n_tokens, cache.k.shape[1]))
    place = torch.arange(n_places, device=length.device)
    source = (place + (cache.length - length)[:, None]).clamp_max(cache.k.shape[1] - 1)
    first = torch.arange(len(source), device=source.device)[:, None] * cache.k.shape[1]
    is_held = (place < length[:, None])[..., None, None]
    k, v = (
        take(held.flatten(0, 1), first + source).masked_fill(~is_held, 0)
        for held in (cache.k, cache.v)
    )
    return KVCache(k, v, length)


class Window(NamedTuple):
    """What a query sees: the last `size` tokens, itself included, and the first `n_sinks`."""

    size: int
    n_sinks: int

    @property
    def span(self) -> int:
        """Tokens that a query sees at most, and places of a cache at most."""
        return self.size + self.n_sinks


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (N, ...) at `index` (...): x[index], with a gradient that is fast."""
    if x.is_cuda:  # the gradient of an embedding sorts there
        return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])
    return F.embedding(index, x.flatten(1)).view(*index.shape, *x.shape[1:])


def by_document(x: Tensor, segments: Segments | None) -> Tensor:
    """(B, T, ...) -> (n_docs, L, ...): documents from the left, L the longest; then zeros."""
    if segments is None:
        return x
    index, is_real = places(segments)
    taken = take(x.flatten(0, 1), index)
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


def n_added(new: Tensor, segments: Segments | None) -> Tensor:
    """(n_docs,) int64: tokens that a call adds to each document; `new` is (n_docs, L, ...)."""
    if segments is not None:
        return segments.lengths
    return torch.full((new.shape[0],), new.shape[1], dtype=torch.int64, device=new.device)


def may_write(cache: KVCache, k: Tensor, v: Tensor) -> bool:
    """Whether no gradient flows through old or new entries, so that places may be written."""
    tensors = (k, v, cache.k, cache.v)
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def extend(cache: KVCache | None, k: Tensor, v: Tensor, segments: Segments | None) -> KVCache:
    """The cache with the new keys (B, T, Hkv, D) and values (B, T, Hkv, Dv) behind the old ones."""
    new_k, new_v = by_document(k, segments), by_document(v, segments)
    added = n_added(new_k, segments)
    if cache is None:
        return KVCache(new_k.contiguous(), new_v.contiguous(), added.clone())
    length = cache.length + added
    if isinstance(cache, Reserved):
        _scatter(cache.k, new_k, cache.length, added, segments)
        _scatter(cache.v, new_v, cache.length, added, segments)
        return Reserved(cache.k, cache.v, length)
    longest = int(length.max()) if len(length) else 0
    if not may_write(cache, k, v):
        return _joined(cache, new_k, new_v, length, longest)
    old_k, old_v = with_room(cache.k, longest), with_room(cache.v, longest)
    _write(old_k, new_k, cache.length, added, segments)
    _write(old_v, new_v, cache.length, added, segments)
    return KVCache(old_k, old_v, length)


def with_room(held: Tensor, needed: int, most: int | None = None) -> Tensor:
    """`held` itself if it has `needed` places, otherwise a copy of at least twice its capacity.

    No cache is made larger than `most` places.
    """
    capacity = held.shape[1]
    if needed <= capacity:
        return held
    wanted = max(needed, 2 * capacity)
    wanted = wanted if most is None else min(wanted, most)
    grown = held.new_zeros(held.shape[0], wanted, *held.shape[2:])
    grown[:, :capacity] = held
    return grown


def _write(held: Tensor, new: Tensor, at: Tensor, added: Tensor, segments: Segments | None) -> None:
    """Write each document's new entries (n_docs, L, ...) at its own length, in place."""
    if len(held) == 1 and segments is None and held.device.type == "cpu":
        start = int(at)
        held[:, start : start + new.shape[1]] = new
        return
    _scatter(held, new, at, added, segments)


def _scatter(
    held: Tensor, new: Tensor, at: Tensor, added: Tensor, segments: Segments | None
) -> None:
    """The same without a question to the host; a place that is not there is an error."""
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
    is_held = (place < length[:, None])[..., None, None]
    k, v = (
        joined(held, new, cache.length, longest).masked_fill(~is_held, 0)
        for held, new in ((cache.k, new_k), (cache.v, new_v))
    )
    return KVCache(k, v, length)


def joined(held: Tensor, new: Tensor, n_held: Tensor, longest: int) -> Tensor:
    """(n_docs, longest, ...): the first n_held (n_docs,) entries of `held`, then those of `new`.

    Behind a document's end an entry is repeated.
    """
    place = torch.arange(longest, device=n_held.device)
    behind = place - n_held[:, None]
    capacity, n_new = held.shape[1], new.shape[1]
    source = torch.where(behind < 0, place, capacity + behind.clamp(0, n_new - 1))
    first = torch.arange(len(source), device=source.device)[:, None] * (capacity + n_new)
    return take(torch.cat((held, new.to(held.dtype)), dim=1).flatten(0, 1), first + source)
