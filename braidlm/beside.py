"""Independent computations side by side on streams of one GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def side_by_side(inputs: Any, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what the calls give; on a GPU the first runs on the current stream, each other on one
    of its own, which begins after what was asked for before and ends before what comes after.

    The backward pass of a call runs on its stream, too. Elsewhere they run one after the other.

    Args:
        inputs: the tensors that the calls read and that may be freed soon after, however nested.
        calls: without effects on each other; they give tensors, however nested.
    """
    read = _tensors(inputs)
    if not read or not read[0].is_cuda or len(calls) < 2:
        return [call() for call in calls]
    here = torch.cuda.current_stream()
    found = []
    for number, call in enumerate(calls[1:]):
        stream = _stream(read[0].device, number)
        stream.wait_stream(here)
        # Memory of a tensor is used again when its own stream is done with it: others are told.
        _keep(read, stream)
        with torch.cuda.stream(stream):
            found.append((stream, call()))
    results = [calls[0]()]
    for stream, result in found:
        here.wait_stream(stream)
        _keep(_tensors(result), here)
        results.append(result)
    return results


def _tensors(nested: Any) -> list[Tensor]:
    """Every tensor of nested lists and tuples, whatever lies beside them."""
    if isinstance(nested, Tensor):
        return [nested]
    return (
        [t for part in nested for t in _tensors(part)] if isinstance(nested, list | tuple) else []
    )


def _keep(tensors: list[Tensor], stream: torch.cuda.Stream) -> None:
    for tensor in tensors:
        tensor.record_stream(stream)


@lru_cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
