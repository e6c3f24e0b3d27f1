"""One call of torch's fused attention kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Scoring(NamedTuple):
    """How weights follow from products of queries and keys."""

    scale: float
    """Multiplies the products."""


def call(
    q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, mask: Tensor | None = None, *, causal: bool
) -> Tensor:
    """Attention of (n, L, Hq, D) over (n, S, Hkv, D) and (n, S, Hkv, Dv) -> (n, L, Hq, Dv).

    `mask` is broadcast to (n, Hq, L, S), true where a query sees a key; `causal` lets query i see
    keys 0..i and takes no mask.
    """
    width, v_width = q.shape[-1], v.shape[-1]
    if width != v_width:
        # The fused kernels want one width for all; zero channels change nothing.
        widest = max(width, v_width)
        q, k, v = (F.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
    o = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        scale=scoring.scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return o.transpose(1, 2)[..., :v_width]
