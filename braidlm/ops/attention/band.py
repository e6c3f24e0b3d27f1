"""A sliding window beyond its first span tokens: blocks of queries, each over one band of keys.

The first span = window + n_sinks tokens of a document see all that came before them: that is causal
attention and not done here. From there on the keys of a block of b queries are the sinks and the
window - 1 + b tokens that end with the block: one mask of b rows serves every block of every
document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.arch.mixers.tiles import window_block
from braidlm.ops.attention.cache import Window, take
from braidlm.ops.attention.kernel import Scoring, call
from braidlm.ops.dispatch import state_dtype


class Span(NamedTuple):
    """A document in flattened queries and keys; its keys stand in order, the queries' own last."""

    query: int
    """Place of its first query."""
    key: int
    """Place of its first key."""
    n_old: int
    """Keys before that of the first query."""
    n_new: int
    """Queries."""


class _Blocks(NamedTuple):
    """m blocks of b queries each; behind a document's end its last token is repeated."""

    query: Tensor
    """(m, b) places of queries"""
    is_real: Tensor
    """(m, b) bool, false behind the end"""
    key: Tensor
    """(m, window - 1 + b) places of keys"""
    document: Tensor
    """(m,) number of the block's document"""


def band(
    q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span], scoring: Scoring, window: Window
) -> list[tuple[Tensor, Tensor]]:
    """Attention of every query that has `window.span` keys or more before its own.

    Args:
        q: (Nq, Hq, D), flattened.
        k: (Nk, Hkv, D).
        v: (Nk, Hkv, Dv).
        spans: the documents.
        scoring: how products become weights.
        window: what is seen.

    Returns:
        Pieces: places (n,) among the queries, and the output there (n, Hq, Dv).
    """
    tails = [s.n_old + s.n_new - max(s.n_old, window.span) for s in spans]
    if max(tails, default=0) <= 0:
        return []
    size = min(window_block(window.size), max(tails))
    blocks = _cut(spans, size, window, q.device)
    keys, values = (_of_blocks(x, blocks, spans, window.n_sinks) for x in (k, v))
    mask = _mask(size, window, q.device)
    o = call(take(q, blocks.query), keys, values, scoring, mask, causal=False)
    return [(blocks.query[blocks.is_real], o[blocks.is_real])]


def _cut(spans: Sequence[Span], size: int, window: Window, device: torch.device) -> _Blocks:
    rows = [
        (s.query - s.n_old, s.key, start, s.n_old + s.n_new - 1, d)
        for d, s in enumerate(spans)
        for start in range(max(s.n_old, window.span), s.n_old + s.n_new, size)
    ]
    query, key, start, last, document = torch.tensor(rows).unsqueeze(-1).unbind(1)
    asked = start + torch.arange(size)
    seen = start + torch.arange(1 - window.size, size)
    return _Blocks(
        (query + asked.minimum(last)).to(device),
        (asked <= last).to(device),
        (key + seen.minimum(last)).to(device),
        document[:, 0].to(device),
    )


def _of_blocks(x: Tensor, blocks: _Blocks, spans: Sequence[Span], n_sinks: int) -> Tensor:
    """Entries (N, H, D) that each block sees: (m, n_sinks + window - 1 + b, H, D)."""
    seen = take(x, blocks.key)
    if not n_sinks:
        return seen
    first = torch.tensor([s.key for s in spans], device=x.device)
    # A document shorter than its sinks has no block: any place of another one will do for it.
    index = (first[:, None] + torch.arange(n_sinks, device=x.device)).clamp_max(len(x) - 1)
    # Every block adds to the gradient of the same few sinks: the sum is kept in at least fp32.
    sinks = take(x, index).to(state_dtype(x.dtype))
    return torch.cat((take(sinks, blocks.document).to(x.dtype), seen), dim=1)


def _mask(size: int, window: Window, device: torch.device) -> Tensor:
    """(b, n_sinks + window - 1 + b) bool: row i sees the sinks, and window places from i on."""
    row = torch.arange(size, device=device)[:, None]
    place = torch.arange(-window.n_sinks, window.size - 1 + size, device=device)
    return (place < 0) | ((place >= row) & (place < row + window.size))
