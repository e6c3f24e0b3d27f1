"""Rotary positions on a GPU: one kernel, and the same one going back, nothing kept but angles.

    y_i = x_i cos a_i - x_{i+r} sin a_i;  y_{i+r} = x_{i+r} cos a_i + x_i sin a_i;  the rest of x

Its gradient is the rotation by -a. What is rotated is a slice of a wider projection and is read
where it lies; sums are fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

BLOCK = 2**11
"""Rotated pairs of a program, at least one head's."""


def rope_triton(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, D), cos and sin (B, T, r) in fp32 -> (B, T, H, D) in the dtype of x."""
    return _Rotation.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _rotated(dy, cos, sin, True), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, is_back: bool) -> Tensor:
    batch, length, n_heads, width = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    n_heads_padded, half = _padded(n_heads), cos.shape[-1]
    tokens = max(1, BLOCK // (n_heads_padded * _padded(half)))
    grid = (max(1, -(-batch * length // tokens)),)
    _kernel[grid](
        *(x, cos, sin, y, *x.stride()[:3], batch * length, length),
        IS_BACK=is_back,
        H=n_heads,
        BH=n_heads_padded,
        R=half,
        BR=_padded(half),
        D=width,
        REST=_padded(max(1, width - 2 * half)),
        TOKENS=tokens,
    )
    return y


def _padded(n: int) -> int:
    return 1 << (n - 1).bit_length()


@triton_jit
def _kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, sb, st, sh, n_tokens, length,
    IS_BACK: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, R: tl.constexpr, BR: tl.constexpr,
    D: tl.constexpr, REST: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """A row is a head of a token."""
    row = tl.arange(0, TOKENS * BH)
    token = tl.program_id(0).to(tl.int64) * TOKENS + row // BH
    head = row % BH
    here = (token < n_tokens) & (head < H)
    source = x_ptr + token // length * sb + token % length * st + head * sh
    target = y_ptr + (token * H + head) * D
    c = tl.arange(0, BR)
    ok = here[:, None] & (c < R)[None, :]
    at = token[:, None] * R + c[None, :]
    cos = tl.load(cos_ptr + at, mask=ok, other=0.0)
    sin = tl.load(sin_ptr + at, mask=ok, other=0.0)
    if IS_BACK:
        sin = -sin
    first = tl.load(source[:, None] + c[None, :], mask=ok, other=0.0).to(tl.float32)
    second = tl.load(source[:, None] + R + c[None, :], mask=ok, other=0.0).to(tl.float32)
    tl.store(target[:, None] + c[None, :], first * cos - second * sin, mask=ok)
    tl.store(target[:, None] + R + c[None, :], second * cos + first * sin, mask=ok)
    if D > 2 * R:
        rest = 2 * R + tl.arange(0, REST)
        ok = here[:, None] & (rest < D)[None, :]
        kept = tl.load(source[:, None] + rest[None, :], mask=ok, other=0.0)
        tl.store(target[:, None] + rest[None, :], kept, mask=ok)
