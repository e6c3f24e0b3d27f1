"""KL divergence of two linear heads that never holds the logits of more than a few tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.ops.loss import LOGITS_AT_ONCE, LOGITS_IN_CACHE


def linear_divergence(
    hidden: Tensor,
    weight: Tensor,
    theirs: Tensor,
    their_weight: Tensor,
    counts: Tensor,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """sum_t KL(p_t || q_t), p = softmax(theirs W_t^T), q = softmax(hidden W^T), in nats.

    Logits are computed for `chunk_size` tokens at a time, in the dtype of `hidden` (or that of
    autocast), their statistics in at least fp32. Gradients are computed in the same pass, of
    `hidden` and `weight` alone::

        d KL / d logits of q = q - p

    Args:
        hidden: (..., d).
        weight: (V, d), the head's weight.
        theirs: (..., d'), without gradients.
        their_weight: (V, d').
        counts: (...) bool: the tokens that are summed over.
        chunk_size: tokens per block; by default as of `linear_cross_entropy`, for two blocks.

    Returns:
        (), at least fp32.

    Raises:
        ValueError: shapes that do not fit.
    """
    shapes = (hidden.shape[:-1], theirs.shape[:-1])
    if shapes != (counts.shape,) * 2 or weight.shape[0] != their_weight.shape[0]:
        raise ValueError(
            f"linear_divergence: hidden {tuple(hidden.shape)}, theirs {tuple(theirs.shape)}, "
            f"counts {tuple(counts.shape)} and weights {tuple(weight.shape)} and "
            f"{tuple(their_weight.shape)} must be (..., d), (..., d'), (...), (V, d) and (V, d')."
        )
    kind, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    at_once = LOGITS_IN_CACHE if kind == "cpu" else LOGITS_AT_ONCE
    size = chunk_size or max(32, at_once // (2 * weight.shape[0]))
    own = hidden[counts].to(dtype)
    fixed = (theirs[counts].detach().to(dtype), their_weight.detach().to(dtype))
    with torch.autocast(kind, enabled=False):
        return _Total.apply(own, weight, *fixed, size)  # type: ignore[return-value]


class _Total(torch.autograd.Function):
    """The sum, and with it the gradients that are needed."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, theirs: Tensor, their_weight: Tensor, size: int
    ) -> Tensor:
        wide = state_dtype(rows.dtype)
        head = weight.to(rows.dtype)
        needs_rows, needs_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=wide, device=rows.device)
        of_rows = torch.empty_like(rows) if needs_rows else None
        of_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        for start in range(0, len(rows), size):
            own = rows[start : start + size]
            p = torch.log_softmax(
                torch.mm(theirs[start : start + size], their_weight.t()).to(wide), -1
            )
            q = torch.log_softmax(torch.mm(own, head.t()).to(wide), -1)
            mass = p.exp()
            total += (mass * (p - q)).sum()
            if of_rows is None and of_weight is None:
                continue
            change = q.exp_().sub_(mass).to(rows.dtype)
            if of_rows is not None:
                of_rows[start : start + size] = torch.mm(change, head)
            if of_weight is not None:
                of_weight += torch.mm(change.t(), own)
        ctx.gradients = (of_rows, None if of_weight is None else of_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        found = [None if g is None else g * outer[0].to(g.dtype) for g in ctx.gradients]
        return *found, None, None, None
