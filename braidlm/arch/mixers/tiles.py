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


def computed_pairs(n_tokens: int, window: int | None, n_sinks: int) -> int:
    """Scores that the calls hold, hidden ones included.

    One causal square over the first span tokens, and blocks of queries over their slice of keys.
    """
    if window is None:
        return n_tokens * n_tokens
    head = min(n_tokens, window + n_sinks)
    block = min(window_block(window), n_tokens - head)
    n_blocks = -(-(n_tokens - head) // block) if block else 0
    return head * head + n_blocks * block * (n_sinks + window - 1 + block)
