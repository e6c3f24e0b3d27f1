"""What torch's FlopCounterMode does not know: the CPU's fused attention, sums in place."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten


def _forward(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Scores and values of (B, Hq, T, D) queries; the counter's own rule refuses grouped heads."""
    rows = 2 * q[0] * q[1] * q[2] * k[2]
    return rows * (q[3] + v[3])


def _backward(
    grad: Any, q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Scores again, then the gradients of values, weights, queries and keys."""
    rows = 2 * q[0] * q[1] * q[2] * k[2]
    return rows * (3 * q[3] + 2 * v[3])


def _added_product(
    total: Any, a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """The product of a sum in place, (m, k) times (k, n)."""
    return 2 * a[0] * a[1] * b[1]


UNKNOWN_TO_TORCH = {
    aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    aten.addmm_: _added_product,
}
"""Operator -> its FLOPs, for ``FlopCounterMode(custom_mapping=...)``."""
