"""Forgetting the oldest tokens of a cache that grows: what is carried on stays bounded.

A module whose memory grows has ``shorten(state, n_tokens)``; that of all others has its size.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def shorten(module: nn.Module, state: Any, n_tokens: int) -> Any:
    """Return a module's state with the last `n_tokens` of each document at most."""
    forgets = getattr(module, "shorten", None)
    return state if forgets is None or state is None else forgets(state, n_tokens)
