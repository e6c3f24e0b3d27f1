"""The truth of fading attention: token by token, an explicit softmax over what each one sees."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.attention.cache import KVCache
from braidlm.ops.fading.cache import Entries, FadingCache
from braidlm.segments import Segments

History = list[tuple[Tensor, Tensor]]
"""Keys (Hkv, D) and values (Hkv, Dv) by position; None where they are forgotten."""


def fading_naive(
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
    """One softmax over two windows of two histories; see `fading_attention`."""
    spans = segments.spans if segments is not None else [(r, 0, q.shape[1]) for r in range(len(q))]
    o = q.new_zeros(*q.shape[:3], own.v.shape[3])
    histories = []
    for d, (row, start, length) in enumerate(spans):
        first, near, far = (0, [], []) if cache is None else _recalled(cache, d, window)
        for t in range(first, first + length):
            at = row, start + t - first
            near.append((own.k[at], own.v[at]))
            far.append((faded.k[at], faded.v[at]))
            begin = max(t - window + 1, 0)
            seen = near[begin : t + 1] + far[max(begin - window, 0) : begin]
            o[at] = _weighed(q[at], seen, scale)
        histories.append((near, far))
    return o, _remembered(histories, own, cache, window) if return_state else None


def _weighed(q: Tensor, seen: History, scale: float) -> Tensor:
    """(Hq, D) over n keys and values -> (Hq, Dv)."""
    keys, values = (torch.stack(parts, dim=1) for parts in zip(*seen, strict=True))
    per_kv_head = len(q) // len(keys)
    keys, values = (x.repeat_interleave(per_kv_head, dim=0).to(q.dtype) for x in (keys, values))
    scores = scale * (keys @ q[:, :, None])[..., 0]
    return (scores.softmax(-1)[:, None] @ values)[:, 0]


def _recalled(cache: FadingCache, d: int, window: int) -> tuple[int, History, History]:
    """Tokens seen by document d, and both its histories; places that are forgotten repeat one."""
    n = int(cache.seen.length[d])

    def entry(ring: KVCache, place: int) -> tuple[Tensor, Tensor]:
        return ring.k[d, place % ring.k.shape[1]], ring.v[d, place % ring.v.shape[1]]

    near = [entry(cache.seen, p % window) for p in range(n)]
    far = [entry(cache.seen, window + p % window) for p in range(max(n - window, 0))]
    far += [entry(cache.waiting, p % window) for p in range(len(far), n)]
    return n, near, far


def _remembered(
    histories: list[tuple[History, History]], own: Entries, cache: FadingCache | None, window: int
) -> FadingCache:
    """The cache after the last token of every document."""
    lengths = [len(near) for near, _ in histories]
    longest = max(lengths, default=0)
    dtypes = [(x if cache is None else cache.seen[i]).dtype for i, x in enumerate(own)]
    shape = len(lengths), min(longest, 2 * window)
    k, v = (x.new_zeros(*shape, *x.shape[2:], dtype=t) for x, t in zip(own, dtypes, strict=True))
    seen, waiting = (k, v), (torch.zeros_like(k[:, :window]), torch.zeros_like(v[:, :window]))
    for d, (near, far) in enumerate(histories):
        for i in (0, 1):
            for p in range(max(len(near) - window, 0), len(near)):
                seen[i][d, p % window] = near[p][i]
                waiting[i][d, p % window] = far[p][i]
            for p in range(max(len(near) - 2 * window, 0), len(near) - window):
                seen[i][d, window + p % window] = far[p][i]
    length = torch.tensor(lengths, dtype=torch.int64, device=own.k.device)
    return FadingCache(KVCache(k, v, length), KVCache(waiting[0], waiting[1], length))
