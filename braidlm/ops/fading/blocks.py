"""Fading attention by torch's scaled_dot_product_attention, without a mask of T x T entries.

README.md of this folder says which call is made when. Entries lie in one flat axis: own ones of
this call, faded ones of this call, then the places of a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.arch.mixers.tiles import window_block
from braidlm.ops import dispatch
from braidlm.ops.attention.cache import KVCache, Reserved, by_document, take
from braidlm.ops.attention.kernel import Scoring, call
from braidlm.ops.attention.sdpa import Pieces, assembled, by_buckets, step_over_ring, to_rows
from braidlm.ops.fading.cache import Entries, FadingCache, written
from braidlm.segments import Segments, bucketed


class _Layout(NamedTuple):
    """Where the entries of every document lie in the flat axis; all numbers are the host's."""

    window: int
    first: Tensor
    """(n_docs,) place of the document's first new token among the flattened tokens"""
    n_old: Tensor
    """(n_docs,) tokens seen before this call"""
    n_new: Tensor
    """(n_docs,)"""
    n_tokens: int
    """Flattened tokens of this call, padding included"""
    n_seen: int
    """Places of the cache's `seen`"""
    n_waiting: int
    """Places of the cache's `waiting`"""

    @property
    def length(self) -> Tensor:
        """(n_docs,) tokens seen after this call."""
        return self.n_old + self.n_new

    def own(self, document: Tensor, position: Tensor) -> Tensor:
        """Places of own entries, of the last w tokens before this call or of this call's."""
        held = 2 * self.n_tokens + document * self.n_seen + position % self.window
        return torch.where(position < self.n_old[document], held, self._new(document, position))

    def faded(self, document: Tensor, position: Tensor) -> Tensor:
        """Places of faded entries, of the last 2 w tokens before this call or of this call's."""
        age = self.n_old[document] - position
        seen = 2 * self.n_tokens + document * self.n_seen + self.window + position % self.window
        base = 2 * self.n_tokens + len(self.first) * self.n_seen
        waiting = base + document * self.n_waiting + position % self.window
        held = torch.where(age > self.window, seen, waiting)
        return torch.where(age > 0, held, self.n_tokens + self._new(document, position))

    def _new(self, document: Tensor, position: Tensor) -> Tensor:
        return self.first[document] + position - self.n_old[document]


def fading_blocks(
    q: Tensor,
    own: Entries,
    faded: Entries,
    *,
    segments: Segments | None,
    cache: FadingCache | None,
    scale: float,
    window: int,
    return_state: bool,
) -> tuple[Tensor, FadingCache | None]:
    """Blocks of queries over the entries that they see; see `fading_attention`."""
    if segments is not None and not segments.n_docs:
        return q.new_zeros(*q.shape[:3], own.v.shape[3]), _nothing(own, cache, return_state)
    if cache is not None and _is_step(q, own, faded, segments, cache):
        o, after = _step(q, own, faded, segments, cache, scale, window)
        return o, after if return_state else None
    layout = _layout(q, segments, cache, window)
    k, v = (_flat(i, own, faded, cache) for i in (0, 1))
    flat_q, scoring = q.flatten(0, 1), Scoring(scale)
    pieces = _heads(flat_q, k, v, layout, scoring) + _blocks(flat_q, k, v, layout, scoring)
    o = assembled(pieces, q, own.v.shape[3])
    return o, (_after(k, v, layout, cache, q.device) if return_state else None)


def _nothing(own: Entries, cache: FadingCache | None, return_state: bool) -> FadingCache | None:
    """The cache of no documents."""
    if cache is not None or not return_state:
        return cache if return_state else None
    k, v = (x.new_zeros(0, 0, *x.shape[2:]) for x in own)
    empty = KVCache(k, v, torch.zeros(0, dtype=torch.int64, device=k.device))
    return FadingCache(empty, empty)


def _is_step(
    q: Tensor, own: Entries, faded: Entries, segments: Segments | None, cache: FadingCache
) -> bool:
    """Whether every document has one new token, and places may be written."""
    if (q.shape[1] if segments is None else segments.max_length) > 1:
        return False
    held = (*cache.seen[:2], *cache.waiting[:2])
    return isinstance(cache.seen, Reserved) or not dispatch.needs_grad(*own, *faded, *held)


def _step(
    q: Tensor,
    own: Entries,
    faded: Entries,
    segments: Segments | None,
    cache: FadingCache,
    scale: float,
    window: int,
) -> tuple[Tensor, FadingCache]:
    """One query per document over the first places of `seen`, which hold its own token already."""
    before = cache.seen.length
    new, new_faded = (Entries(*(by_document(x, segments) for x in e)) for e in (own, faded))
    cache = written(cache, new, new_faded, window)
    o = step_over_ring(by_document(q, segments), before, cache.seen, Scoring(scale))
    return (o if segments is None else to_rows(o, segments)), cache


def _layout(
    q: Tensor, segments: Segments | None, cache: FadingCache | None, window: int
) -> _Layout:
    batch, length = q.shape[:2]
    spans = segments.spans if segments is not None else [(r, 0, length) for r in range(batch)]
    row, start, n_new = torch.tensor(spans).unbind(1)
    n_old = torch.zeros_like(row) if cache is None else cache.seen.length.cpu()
    capacities = (0, 0) if cache is None else (cache.seen.k.shape[1], cache.waiting.k.shape[1])
    return _Layout(window, row * length + start, n_old, n_new, batch * length, *capacities)


def _flat(i: int, own: Entries, faded: Entries, cache: FadingCache | None) -> Tensor:
    """All keys (i = 0) or all values (i = 1) in one axis: (N, Hkv, D)."""
    held = () if cache is None else (cache.seen[i], cache.waiting[i])
    return torch.cat([x.flatten(0, 1).to(own[i].dtype) for x in (own[i], faded[i], *held)])


def _heads(q: Tensor, k: Tensor, v: Tensor, layout: _Layout, scoring: Scoring) -> Pieces:
    """The first w tokens of each new document, by causal calls: they see nothing faded."""
    rows = zip(layout.first.tolist(), layout.n_old.tolist(), layout.n_new.tolist(), strict=True)
    new = [(first, min(n_new, layout.window)) for first, n_old, n_new in rows if n_old == 0]
    firsts, lengths = [first for first, _ in new], [n for _, n in new]
    return by_buckets(q, k, v, bucketed(firsts, lengths, q.device), scoring)


def _blocks(q: Tensor, k: Tensor, v: Tensor, layout: _Layout, scoring: Scoring) -> Pieces:
    """Every other token, in blocks that share a mask: those far enough from the start share one."""
    far = 2 * layout.window - 1
    begin = torch.where(layout.n_old > 0, layout.n_old, layout.window)
    longest = int((layout.length - begin).max())
    if longest <= 0:
        return []
    size = min(window_block(layout.window), longest)
    groups: dict[int, list[tuple[int, int]]] = {}
    for d, (first, stop) in enumerate(zip(begin.tolist(), layout.length.tolist(), strict=True)):
        for start in range(first, stop, size):
            groups.setdefault(min(start, far), []).append((d, start))
    return [_one_call(q, k, v, layout, scoring, size, *group) for group in groups.items()]


def _one_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: _Layout,
    scoring: Scoring,
    size: int,
    at: int,
    rows: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Blocks (document, first position) that see what one at position `at` would see.

    Behind a document's end its last token is repeated.
    """
    document, start = torch.tensor(rows).unsqueeze(-1).unbind(1)
    asked, near, far, mask = _sight(at, size, layout.window)
    last = layout.length[document] - 1
    position = start + asked - at
    query = layout.first[document] + position.minimum(last) - layout.n_old[document]
    near, far = ((start + seen - at).minimum(last) for seen in (near, far))
    index = torch.cat((layout.own(document, near), layout.faded(document, far)), dim=1)
    query, index, is_real = (x.to(q.device) for x in (query, index, position <= last))
    keys, values = take(k, index), take(v, index)
    o = call(take(q, query), keys, values, scoring, mask.to(q.device), causal=False)
    return query[is_real], o[is_real]


def _sight(at: int, size: int, window: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions of queries from `at` on, of the own and the faded entries seen, and the mask."""
    asked = torch.arange(at, at + size)
    near = torch.arange(max(at - window + 1, 0), at + size)
    far = torch.arange(max(at - 2 * window + 1, 0), max(at - window + size, 0))
    back, far_back = asked[:, None] - near, asked[:, None] - far - window
    mask = torch.cat((back, far_back), dim=1)
    return asked, near, far, (mask >= 0) & (mask < window)


def _after(
    k: Tensor, v: Tensor, layout: _Layout, cache: FadingCache | None, device: torch.device
) -> FadingCache:
    """The cache after the last token: each place takes the last entry that belongs there."""
    window, longest = layout.window, int(layout.length.max())
    is_reserved = cache is not None and isinstance(cache.seen, Reserved)
    n_seen, n_waiting = min(longest, 2 * window), min(longest, window)
    if is_reserved:
        n_seen, n_waiting = max(n_seen, layout.n_seen), max(n_waiting, layout.n_waiting)
    document = torch.arange(len(layout.first))[:, None]
    place, turned = torch.arange(min(n_seen, window)), torch.arange(max(n_seen - window, 0))
    near = _latest(place, layout.length[:, None], window)
    far = _latest(turned, layout.length[:, None] - window, window)
    wait = _latest(torch.arange(n_waiting), layout.length[:, None], window)
    index = layout.own(document, near.clamp_min(0)), layout.faded(document, far.clamp_min(0))
    length = layout.length.to(device)
    seen = _ring(k, v, torch.cat(index, 1), torch.cat((near, far), 1) >= 0, length)
    waiting = _ring(k, v, layout.faded(document, wait.clamp_min(0)), wait >= 0, length)
    if cache is None:
        return FadingCache(seen, waiting)
    return FadingCache(_kept(seen, cache.seen), _kept(waiting, cache.waiting))


def _latest(place: Tensor, length: Tensor, window: int) -> Tensor:
    """The last position below `length` that lies at `place` of a ring of w; below 0: none."""
    since = length - 1 - place
    return torch.where(since >= 0, place + since - since % window, -1)


def _ring(k: Tensor, v: Tensor, index: Tensor, is_held: Tensor, length: Tensor) -> KVCache:
    is_empty = ~is_held.to(k.device)[..., None, None]
    k, v = (take(x, index.to(x.device)).masked_fill(is_empty, 0) for x in (k, v))
    return KVCache(k, v, length)


def _kept(new: KVCache, old: KVCache) -> KVCache:
    """The new entries in the dtype of the old ones, and in their places if these are reserved."""
    k, v = (x.to(held.dtype) for x, held in zip(new[:2], old[:2], strict=True))
    if not isinstance(old, Reserved):
        return KVCache(k, v, new.length)
    if k.shape == old.k.shape:
        k, v = old.k.copy_(k), old.v.copy_(v)
    return Reserved(k, v, new.length)
