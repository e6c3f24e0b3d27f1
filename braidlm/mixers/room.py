"""Room for tokens to come: then a step of decoding has one shape, whatever it has seen.

A module whose memory grows has ``reserve(state, n_tokens)``; that of all others has its size.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def reserve(module: nn.Module, state: Any, n_tokens: int) -> Any:
    """Return a module's state with room for `n_tokens` more per document."""
    grows = getattr(module, "reserve", None)
    return state if grows is None or state is None else grows(state, n_tokens)
