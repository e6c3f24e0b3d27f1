"""From tokens to rows sorted by expert, and back.

Both are gathers, forward and backward: nothing is scattered, so sums have one order of additions
and the result has the same bits whenever it runs, on a GPU too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm.ops.dispatch import needs_grad, state_dtype


class Order(NamedTuple):
    """A permutation of the N k pairs (token, choice)."""

    order: Tensor
    """(N k,) int64: the pairs, sorted by expert; pairs of one expert keep the tokens' order."""
    inverse: Tensor
    """(N k,) int64: where each pair went."""
    k: int
    """Choices of each token."""


def by_expert(index: Tensor) -> Order:
    """Sort the choices (N, k)."""
    order = index.flatten().argsort(stable=True)
    return Order(order, order.argsort(), index.shape[1])


def spread(x: Tensor, order: Order) -> Tensor:
    """(N, D) -> (N k, D): each token once for each of its experts, sorted by expert."""
    if needs_grad(x):
        return _Spread.apply(x, *order)  # type: ignore[return-value]
    return x.index_select(0, order.order // order.k)


def gathered(rows: Tensor, order: Order) -> Tensor:
    """(N k, D) sorted -> (N, D): the sum of each token's rows in order of choice, at least fp32."""
    if needs_grad(rows):
        return _Gathered.apply(rows, *order)  # type: ignore[return-value]
    return _sum_of_choices(rows, order.inverse, order.k)


def _sum_of_choices(rows: Tensor, inverse: Tensor, k: int) -> Tensor:
    choices = rows.index_select(0, inverse).unflatten(0, (-1, k))
    return choices.sum(1, dtype=state_dtype(rows.dtype)).to(rows.dtype)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x.index_select(0, order // k)

    @staticmethod
    def backward(ctx: Any, d_rows: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return _sum_of_choices(d_rows, inverse, ctx.k), None, None, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.k = k
        return _sum_of_choices(rows, inverse, k)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (order,) = ctx.saved_tensors
        return d_y.index_select(0, order // ctx.k), None, None, None
