"""Cross-entropy of a block of logits on a GPU: one kernel, the gradient written over the logits.

With p = softmax(scale * logits) and w the weight of a row's loss::

    loss = -log p[target];   d loss / d logits = w scale (p - onehot(target))
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

BLOCK = 4096
"""Logits that a program holds at a time."""
WARPS = 8
"""Warps of a program."""


def cross_entropy_triton(
    logits: Tensor, targets: Tensor, weights: Tensor | None, ignore_index: int, scale: float
) -> Tensor:
    """Losses (n,) in fp32 of logits (n, V); with weights (n,), logits become their gradient."""
    n, vocab_size = logits.shape
    losses = torch.empty(n, dtype=torch.float32, device=logits.device)
    if n:
        _cross_entropy[(n,)](
            *(logits, targets, losses if weights is None else weights, losses),
            *(logits.stride(0), vocab_size, ignore_index, scale),
            HAS_WEIGHTS=weights is not None,
            BLOCK=min(BLOCK, 1 << (vocab_size - 1).bit_length()),
            num_warps=WARPS,
        )
    return losses


@triton_jit
def _scaled(pointers, ok, scale):
    logits = tl.load(pointers, mask=ok, other=0.0).to(tl.float32) * scale
    return tl.where(ok, logits, float("-inf"))


@triton_jit
def _cross_entropy(
    logits_ptr, targets_ptr, weights_ptr, losses_ptr, stride, V, ignore_index, scale,
    HAS_WEIGHTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row a program; the second pass over it finds it in the cache."""
    row = tl.program_id(0).to(tl.int64)
    scale = tl.full((), scale, tl.float32)  # a graph hands it over in fp64
    logits_ptr += row * stride
    column = tl.arange(0, BLOCK)
    target = tl.load(targets_ptr + row)
    counts = target != ignore_index
    # Read before the gradient is written: the sums below are barriers between the two.
    picked = _scaled(logits_ptr + tl.where(counts, target, 0), counts, scale)
    top = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        ok = start + column < V
        logits = _scaled(logits_ptr + start + column, ok, scale)
        now = tl.maximum(top, tl.max(logits, 0))
        total = total * tl.exp(top - now) + tl.sum(tl.exp(logits - now), 0)
        top = now
    tl.store(losses_ptr + row, tl.where(counts, tl.log(total) + (top - picked), 0.0))
    if HAS_WEIGHTS:
        weight = tl.where(counts, tl.load(weights_ptr + row) * scale, 0.0)
        for start in range(0, V, BLOCK):
            ok = start + column < V
            logits = _scaled(logits_ptr + start + column, ok, scale)
            p = tl.exp(logits - top) / total
            d = weight * tl.where(start + column == target, p - 1.0, p)
            tl.store(logits_ptr + start + column, tl.where(counts, d, 0.0), mask=ok)
