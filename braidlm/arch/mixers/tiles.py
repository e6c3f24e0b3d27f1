"""How attention is cut into calls of one kernel: what the operator and its exact cost both know.

Under a window query t of a document (from 0) sees min(t + 1, span) tokens: the last `window` ones,
itself included, and the first `n_sinks`; span = window + n_sinks.
"""

from __future__ import annotations

QUERY_BLOCK = 256
"""Queries per call at most, wherever a call needs a mask."""


def window_block(window: int) -> int:
    """Queries that share one banded slice of keys: as many as a window, within 64 and 256.

    Fewer of them compute fewer hidden pairs (a slice has window - 1 keys more than queries), more
    of them copy fewer keys; `docs/log.md` has the measurement.
    """
    return min(max(window, 64), QUERY_BLOCK)


def visible_pairs(n_tokens: int, window: int | None, n_sinks: int) -> int:
    """Pairs of a query and a key that it sees in one document: sum over t of min(t, span)."""
    head = n_tokens if window is None else min(n_tokens, window + n_sinks)
    return head * (head + 1) // 2 + (n_tokens - head) * head


def computed_pairs(
    n_tokens: int,
    window: int | None,
    n_sinks: int,
    *,
    sink_logit: bool = False,
    softcap: bool = False,
) -> int:
    """Scores that the calls hold, hidden ones included.

    One causal square over the first span tokens, and blocks of queries over their slice of keys.
    A sink logit is one more key in every call, and in the square one more query. Capped scores have
    no fused kernel: the square is cut into blocks of queries, and the sink logit is no key.
    """
    extra = int(sink_logit and not softcap)
    head = n_tokens if window is None else min(n_tokens, window + n_sinks)
    square = _in_blocks(head) if softcap else (head + extra) ** 2
    if window is None or head == n_tokens:
        return square
    block = min(window_block(window), n_tokens - head)
    n_blocks = -(-(n_tokens - head) // block)
    return square + n_blocks * block * (extra + n_sinks + window - 1 + block)


def _in_blocks(n_tokens: int) -> int:
    """Scores of blocks of queries, each over the keys up to its last one."""
    starts = range(0, n_tokens, QUERY_BLOCK)
    stops = [min(start + QUERY_BLOCK, n_tokens) for start in starts]
    return sum((stop - start) * stop for start, stop in zip(starts, stops, strict=True))


def fading_pairs(n_tokens: int, window: int) -> int:
    """Scores that the calls of fading attention hold, hidden ones included, of one new document.

    One causal square over the first `window` tokens, and blocks of queries: each over the own keys
    of window - 1 tokens before it and of itself, and over the faded ones of the window before.
    """
    head = min(n_tokens, window)
    if head == n_tokens:
        return head**2
    block = min(window_block(window), n_tokens - head)
    band = window - 1 + block
    stops = range(block, n_tokens - head + block, block)
    return head**2 + block * sum(band + min(stop, band) for stop in stops)
