"""Activations inside of kernels."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

triton_jit: Any = triton.jit  # no type checker knows what a launch takes


@triton_jit
def sigmoid(z):
    """1 / (1 + e^-z) in fp32, in five instructions.

    `tl.sigmoid` takes eleven: it guards its exponential against results below the normal numbers
    and its quotient against divisors above 2**126, where 1 / sqrt(...)^2 comes to 0 by itself.
    """
    root = tl.rsqrt(1.0 + tl.exp2(z * -1.4426950408889634))
    return root * root
