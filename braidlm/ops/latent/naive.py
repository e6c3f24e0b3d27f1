"""The truth of latent attention: keys and values of every head, document by document."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, extend
from braidlm.ops.latent.forms import Expansion
from braidlm.segments import Segments


def latent_naive(
    q: Tensor,
    latent: Tensor,
    up: Expansion,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scale: float,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """softmax(scale * q [U_k c, r]^T) U_v c over the tokens of each document; see the operator."""
    spans = segments.spans if segments is not None else [(r, 0, q.shape[1]) for r in range(len(q))]
    o = q.new_zeros(*q.shape[:3], up.values.shape[1])
    for d, (row, start, length) in enumerate(spans):
        entries = latent[row, start : start + length]
        if cache is not None:
            entries = torch.cat((cache.k[d, : int(cache.length[d]), 0].to(q.dtype), entries))
        asked = q[row, start : start + length]
        o[row, start : start + length] = _document(asked, entries, up, scale)
    if not return_state:
        return o, None
    nothing = latent.new_empty(*latent.shape[:2], 1, 0)
    return o, extend(cache, latent[:, :, None], nothing, segments)


def _document(q: Tensor, entries: Tensor, up: Expansion, scale: float) -> Tensor:
    """Queries (L, H, N + R), the last L of S tokens, over entries (S, C + R) -> (L, H, V)."""
    rank, nope = up.keys.shape[2], up.keys.shape[1]
    newest = torch.arange(len(entries) - len(q), len(entries), device=q.device)
    is_hidden = torch.arange(len(entries), device=q.device) > newest[:, None]
    heads = []
    for head, (u_k, u_v) in enumerate(zip(up.keys, up.values, strict=True)):
        latent, shared = entries[:, :rank], entries[:, rank:]
        scores = q[:, head, :nope] @ (latent @ u_k.T).T + q[:, head, nope:] @ shared.T
        weights = (scale * scores).masked_fill(is_hidden, -torch.inf).softmax(-1)
        heads.append(weights @ (latent @ u_v.T))
    return torch.stack(heads, dim=1)
