"""Activation checkpointing: a block keeps its input alone and is computed again when needed.

Source: Chen et al. 2016 (arXiv 1604.06174); torch.utils.checkpoint, its form without reentrance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from braidlm.blocks import Stream
from braidlm.errors import InputError


@contextlib.contextmanager
def recomputed(model: nn.Module, every: int) -> Iterator[None]:
    """While inside, the blocks number `every`, 2 `every`, ... are computed again in backward.

    Args:
        model: has its blocks in `model.blocks`.
        every: 1: all blocks, 0: none.

    Raises:
        InputError: a model without blocks, or with fewer than `every`.
    """
    chosen = _chosen(model, every) if every else []
    before = [vars(block).get("forward") for block in chosen]
    for block in chosen:
        # An attribute of the instance: names of modules and weights stay as they are.
        block.forward = partial(_again, block.forward)
    try:
        yield
    finally:
        for block, forward in zip(chosen, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def _again(forward: Callable[..., Any], stream: Stream, *others: Any) -> tuple[Stream, Any]:
    """Run a block; kept is what it starts from, with nothing due to it beside."""
    return checkpoint(forward, stream.settled(), *others, use_reentrant=False)  # pyright: ignore


def _chosen(model: nn.Module, every: int) -> list[nn.Module]:
    blocks = getattr(model, "blocks", None)
    n = len(blocks) if isinstance(blocks, nn.ModuleList) else 0
    if every > n:
        raise InputError(
            f"train.activation_checkpointing = {every}: must be at most {n}, the model's blocks"
        )
    return list(blocks or [])[every - 1 :: every]
