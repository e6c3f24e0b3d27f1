"""What the tokens of a chunk give to each other: a decayed, masked product of scores and inputs.

The backward pass is written out, since it needs far fewer passes over the (c, c) matrices than the
derivatives of the single steps: README.md of this folder derives it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inside(u: Tensor, cum: Tensor, B: Tensor, C: Tensor, doc: Tensor | None) -> Tensor:
    """y_i = sum over j <= i of the same document of exp(cum_i - cum_j) (C_i . B_j) u_j.

    Args:
        u: (K, c, H, P) inputs times dt.
        cum: (K, c, H) log decay since the start of the chunk, at least fp32.
        B: (K * G, c, N).
        C: (K * G, c, N).
        doc: (K, c) document of each token, or None if a chunk lies in one document.

    Returns:
        (K, c, H, P) in the dtype of `u`.
    """
    return _Inside.apply(u, cum, B, C, doc)  # type: ignore[return-value]


def _decays(cum: Tensor, doc: Tensor | None) -> Tensor:
    """(K, H, c, c): exp(cum_i - cum_j) where i sees j, else 0; masked before the exponential."""
    chunk = cum.shape[1]
    i = torch.arange(chunk, device=cum.device)
    sees = i[:, None] >= i
    if doc is not None:
        sees = (sees & (doc[:, :, None] == doc[:, None, :]))[:, None]
    barrier = torch.zeros(sees.shape, dtype=cum.dtype, device=cum.device)
    barrier = barrier.masked_fill_(~sees, -torch.inf)
    by_head = cum.transpose(1, 2).contiguous()
    return (by_head[..., None] - by_head[..., None, :]).add_(barrier).exp_()


def _by_head(v: Tensor) -> Tensor:
    """(K, c, H, P) -> (K * H, c, P)."""
    return v.transpose(1, 2).reshape(-1, v.shape[1], v.shape[3])


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, cum: Tensor, B: Tensor, C: Tensor, doc: Tensor | None
    ) -> Tensor:
        n_blocks, chunk, n_heads, head_dim = u.shape
        grouped = (n_blocks, B.shape[0] // n_blocks, -1, chunk, chunk)
        scores = torch.bmm(C, B.transpose(1, 2))
        decay = _decays(cum, doc).view(grouped)
        weights = (decay * scores.view(grouped)).to(u.dtype).view(-1, chunk, chunk)
        by_head = _by_head(u)
        y = torch.bmm(weights, by_head)
        ctx.save_for_backward(by_head, B, C, scores, decay, weights)
        return y.view(n_blocks, n_heads, chunk, head_dim).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        by_head, B, C, scores, decay, weights = ctx.saved_tensors
        n_blocks, chunk, n_heads, head_dim = d_y.shape
        d_by_head = _by_head(d_y)
        d_u = torch.bmm(weights.transpose(1, 2), d_by_head)
        d_weights = torch.bmm(d_by_head, by_head.transpose(1, 2)).view(decay.shape)
        flow = d_weights * decay
        d_scores = flow.sum(2).to(scores.dtype).view(scores.shape)
        # d weights / d (cum_i - cum_j) = weights, so this is the gradient of each difference.
        flow = flow.mul_(scores.view(n_blocks, -1, 1, chunk, chunk))
        d_cum = (flow.sum(-1) - flow.sum(-2)).view(n_blocks, n_heads, chunk).transpose(1, 2)
        d_u = d_u.view(n_blocks, n_heads, chunk, head_dim).transpose(1, 2)
        d_b = torch.bmm(d_scores.transpose(1, 2), C)
        return d_u, d_cum, d_b, torch.bmm(d_scores, B), None
