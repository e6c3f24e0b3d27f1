"""The weights of softmax attention, a block of queries at a time: never T x T of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.mixers.reading import Scores

WEIGHTS_AT_ONCE = 2**24
"""Weights of one block at most (64 MiB in fp32), unless one query has more."""


class Weighed(NamedTuple):
    """Weights of some queries of one document; a row sums to 1 together with its sink."""

    queries: Tensor
    """(L,) int64: tokens that ask, in order."""
    keys: Tensor
    """(S,) int64: tokens of the keys, in order (twice each with two streams)."""
    streams: Tensor
    """(S,) int64: whose key it is; 0 everywhere but in a merge of two streams."""
    weights: Tensor
    """(Hq, L, S) at least fp32; 0 where a query does not see a key."""
    sink: Tensor
    """(Hq, L): weight of the learned sink logit, which is no token; 0 without one."""

    @property
    def distances(self) -> Tensor:
        """(L, S) int64: tokens from key to query; below 0 where nothing is seen."""
        return self.queries[:, None] - self.keys


def weigh(
    scores: Scores, at_once: int = WEIGHTS_AT_ONCE, queries: Tensor | None = None
) -> Iterator[Weighed]:
    """Yield the weights of one document's queries, in order.

    Args:
        scores: of one row, which is one document.
        at_once: weights of one block at most.
        queries: (n,) int64 tokens that ask, in order; None: all.
    """
    q, k = scores.q[0].float(), scores.k[0].float()
    n_heads = q.shape[1]
    if queries is None:
        queries = torch.arange(len(q), device=q.device)
    k = k.repeat_interleave(n_heads // k.shape[1], dim=1)
    for asking in queries.split(max(1, at_once // (n_heads * len(k)))):
        yield _block(scores, q[asking], k, asking)


def _block(scores: Scores, q: Tensor, k: Tensor, asking: Tensor) -> Weighed:
    """Weights of queries (L, Hq, P) of the tokens `asking` (L,) over keys (S, Hq, P)."""
    places = _seen_by_any(scores, int(asking[0]), int(asking[-1]) + 1, q.device)
    n_streams = len(scores.spans)
    tokens, streams = places // n_streams, places % n_streams
    distances = asking[:, None] - tokens
    is_seen = (distances >= 0) & (tokens < scores.n_sinks)
    for stream, (near, far) in enumerate(scores.spans):
        is_inside = (distances >= near) & (True if far is None else distances < far)
        is_seen |= is_inside & (streams == stream)
    scale = q.shape[2] ** -0.5 if scores.scale is None else scores.scale
    logits = scale * torch.einsum("lhp,shp->hls", q, k[places])
    if scores.softcap is not None:
        logits = scores.softcap * (logits / scores.softcap).tanh()
    logits = logits.masked_fill(~is_seen, -torch.inf)
    sink = q.new_full((*logits.shape[:2], 1), -torch.inf)
    if scores.sink_logits is not None:
        sink = scores.sink_logits.to(q.dtype)[:, None, None].expand_as(sink)
    weights = torch.cat((logits, sink), dim=-1).softmax(-1)
    return Weighed(asking, tokens, streams, weights[..., :-1], weights[..., -1])


def _seen_by_any(scores: Scores, first: int, stop: int, device: torch.device) -> Tensor:
    """Places that some query of the tokens first .. stop - 1 may see."""
    n_streams, ends = len(scores.spans), [far for _, far in scores.spans]
    longest = max(far or 0 for far in ends)
    start = 0 if None in ends else max(0, first - longest + 1)
    sinks = torch.arange(min(scores.n_sinks, start) * n_streams, device=device)
    return torch.cat((sinks, torch.arange(start * n_streams, stop * n_streams, device=device)))
