"""One call of torch's fused attention kernel, and what it does not know by itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.attention.capped import capped


class Scoring(NamedTuple):
    """How weights follow from products of queries and keys."""

    scale: float
    """Multiplies the products: the scores."""
    softcap: float | None = None
    """Scores become cap * tanh(score / cap)."""
    sink_logits: Tensor | None = None
    """(Hq,): a score of each head that takes weight and gives no value."""


def call(
    q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, mask: Tensor | None = None, *, causal: bool
) -> Tensor:
    """Attention of (n, L, Hq, D) over (n, S, Hkv, D) and (n, S, Hkv, Dv) -> (n, L, Hq, Dv).

    `mask` is broadcast to (n, Hq, L, S), true where a query sees a key; `causal` lets query i see
    keys 0..i and takes no mask.
    """
    if scoring.softcap is not None:
        return capped(
            q, k, v, scoring.sink_logits, mask, scoring.scale, scoring.softcap, causal=causal
        )
    if scoring.sink_logits is None:
        return _fused(q, k, v, mask, scoring.scale, causal)
    logits = scoring.sink_logits / scoring.scale
    q, k, v, mask = _with_sink(q, k, v, mask, logits.to(q.dtype), causal)
    o = _fused(q, k, v, mask, scoring.scale, causal)
    return o[:, 1:] if causal else o


def _with_sink(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, logits: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Put one key in front whose product with a query of head h is logits[h] and whose value is 0.

    One more channel holds the logit in every query, 1 in that key and 0 in the others. A causal
    call also needs one more query in front, so that query i goes on to see keys 0..i.
    """
    q = torch.cat((q, logits[:, None].expand(*q.shape[:3], 1)), dim=-1)
    if causal:
        q = F.pad(q, (0, 0, 0, 0, 1, 0))
    front = F.pad(k.new_ones(k.shape[0], 1, k.shape[2], 1), (k.shape[3], 0))
    k = torch.cat((front, F.pad(k, (0, 1))), dim=1)
    v = F.pad(v, (0, 0, 0, 0, 1, 0))
    return q, k, v, None if mask is None else F.pad(mask, (1, 0), value=True)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> Tensor:
    width, v_width = q.shape[-1], v.shape[-1]
    if width != v_width:
        # The fused kernels want one width for all; zero channels change nothing.
        widest = max(width, v_width)
        q, k, v = (F.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
    per_kv_head = q.shape[2] // k.shape[2]
    if mask is not None and per_kv_head > 1:
        return _fold(q, k, v, mask, scale, per_kv_head)[..., :v_width]
    o = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=per_kv_head > 1,
    )
    return o.transpose(1, 2)[..., :v_width]


def _fold(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, per_kv_head: int) -> Tensor:
    """Heads that share keys become more queries: not every kernel takes groups and a mask.

    Row (l, g) of the folded queries is query l of the g-th head of its group.
    """
    n, length = q.shape[:2]
    q = q.unflatten(2, (-1, per_kv_head)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    if mask.shape[-2] > 1:
        mask = mask.repeat_interleave(per_kv_head, dim=-2)
    o = F.scaled_dot_product_attention(
        q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
    )
    o = o.unflatten(2, (length, per_kv_head)).permute(0, 2, 1, 3, 4)
    return o.reshape(n, length, -1, o.shape[-1])
