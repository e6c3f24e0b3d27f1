"""Memory of a model as plain nested tuples of tensors: mapped, measured, selected.

A state is None, a tensor, or a (named) tuple of states. Every tensor's first axis is the
document, so states can be saved, cut, swapped and averaged without knowing their mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[..., Tensor], state: Any, *others: Any) -> Any:
    """Return a state of the same structure, `function` applied to every tensor.

    Args:
        function: takes one tensor of each state.
        state: a state.
        others: states of the same structure.
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state, *others)
    mapped = [map_tensors(function, *parts) for parts in zip(state, *others, strict=True)]
    return type(state)(*mapped) if hasattr(state, "_fields") else tuple(mapped)


def tensors(state: Any) -> list[Tensor]:
    """Return every tensor of a state, in order."""
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [state]
    return [t for part in state for t in tensors(part)]


def n_bytes(state: Any) -> int:
    """Return the bytes that a state holds."""
    return sum(t.numel() * t.element_size() for t in tensors(state))


def select(state: Any, documents: Tensor) -> Any:
    """Return the states of these documents (n,) int64, in this order."""
    return map_tensors(lambda t: t.index_select(0, documents), state)


def detach(state: Any) -> Any:
    """Return the state cut off from the graph that made it."""
    return map_tensors(torch.Tensor.detach, state)
