"""The most probable token of each row, put where the next step reads it and where it is told."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator

BROKEN = -1
"""Stands for the token of a row whose logits are not finite."""


def tell(logits: Tensor, chosen: Tensor, tokens: Tensor, told: Tensor, at: Tensor) -> None:
    """Write what was chosen; numbers of it never go to the host.

    Args:
        logits: (n, V).
        chosen: (n,) int64.
        tokens: (n, 1) int64, filled: what the next step reads.
        told: (k, n) int64, of which row `at` is filled; `BROKEN` where logits are not finite.
        at: (n,) int64, all the same; raised by one.
    """
    is_sound = logits.isfinite().all(-1)
    tokens.copy_(chosen[:, None])
    told.scatter_(0, at[None], torch.where(is_sound, chosen, BROKEN)[None])
    at.add_(1)


def _torch(logits: Tensor, tokens: Tensor, told: Tensor, at: Tensor) -> None:
    tell(logits, logits.argmax(-1), tokens, told, at)


def _triton(logits: Tensor, tokens: Tensor, told: Tensor, at: Tensor) -> None:
    from braidlm.ops.triton_greedy import greedy_triton  # a CPU does without triton

    greedy_triton(logits, tokens, told, at, BROKEN)


GREEDY = Operator(
    "greedy",
    (
        Implementation("triton", _triton, dispatch.why_not_triton),
        Implementation("torch", _torch, dispatch.always),
    ),
)


def greedy(logits: Tensor, tokens: Tensor, told: Tensor, at: Tensor, *, impl: str = "auto") -> None:
    """Choose the most probable token of each row, the first of equals; arguments as for `tell`."""
    sizes = {"n": logits.shape[0], "V": logits.shape[1]}
    GREEDY.choose(impl, Call.of(logits, sizes, (logits,))).function(logits, tokens, told, at)
