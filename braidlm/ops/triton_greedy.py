"""The most probable token of each row on a GPU: one launch, one program a row."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from braidlm.ops.triton_launch import after_launch, early

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

BLOCK = 2**13
"""Logits of a tile."""


def greedy_triton(logits: Tensor, tokens: Tensor, told: Tensor, at: Tensor, broken: int) -> None:
    """See `braidlm.ops.greedy.greedy`; all contiguous, on one GPU."""
    n_rows, n_tokens = logits.shape
    _greedy[(n_rows,)](
        *(logits, tokens, told, at, n_tokens, n_rows),
        BROKEN=broken,
        BLOCK=min(BLOCK, triton.next_power_of_2(n_tokens)),
        num_warps=16,
        **early(logits),
    )


@triton_jit
def _greedy(
    logits_ptr, tokens_ptr, told_ptr, at_ptr, n_tokens, n_rows,
    BROKEN: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    after_launch(EARLY)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    place = tl.zeros((BLOCK,), tl.int32)
    n_bad = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, n_tokens, BLOCK):
        is_token = start + i < n_tokens
        at = logits_ptr + row.to(tl.int64) * n_tokens + start + i
        value = tl.load(at, mask=is_token, other=float("-inf")).to(tl.float32)
        is_finite = tl.abs(value) < float("inf")  # false for nan
        n_bad += (is_token & (is_finite == 0)).to(tl.int32)
        place = tl.where(value > best, start + i, place)
        best = tl.maximum(best, value)
    token = tl.min(tl.where(best == tl.max(best, 0), place, n_tokens - 1), 0)
    group = tl.load(at_ptr + row)
    tl.store(tokens_ptr + row, token.to(tl.int64))
    told = tl.where(tl.sum(n_bad, 0) > 0, BROKEN, token)
    tl.store(told_ptr + group * n_rows + row, told.to(tl.int64))
    tl.store(at_ptr + row, group + 1)
