"""Decayed products of keys, and of queries with keys, for all pairs of tokens inside a chunk.

For tokens j <= i of one document: sum over channels d of x_id k_jd exp(cum_id - cum_jd), else 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.arch.mixers.kda import LEAF
from braidlm.ops.gated_delta.blocks import Blocks


def scores(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Products of keys, and of queries with keys, both (K, G, R, c, c)."""
    if blocks.cum.shape[-1] == 1:
        return _by_head(blocks)
    return _by_channel(blocks)


def _sees(blocks: Blocks) -> Tensor:
    """(c, c) or (K, 1, 1, c, c) bool: row i sees column j."""
    i = torch.arange(blocks.sizes.chunk, device=blocks.k.device)
    sees = i[:, None] >= i
    if blocks.doc is None:
        return sees
    return (sees & (blocks.doc[:, :, None] == blocks.doc[:, None, :]))[:, None, None]


def _by_head(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """One decay per head comes out of the sum: plain products, shared by the heads of a group."""
    sees = _sees(blocks)
    barrier = torch.zeros(sees.shape, dtype=blocks.cum.dtype, device=blocks.cum.device)
    barrier = barrier.masked_fill_(~sees, -torch.inf)
    decay = (blocks.cum - blocks.cum.transpose(-1, -2)).add_(barrier).exp_()
    keys = blocks.k.transpose(-1, -2)
    return decay * (blocks.k @ keys), decay * (blocks.q @ keys)


def _by_channel(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """One decay per channel: products of keys and queries that were decayed to a common token."""
    shape = blocks.cum.shape
    rows = torch.stack((blocks.k.expand(shape), blocks.q.expand(shape)), dim=-3)
    found = _pairs(
        rows.flatten(0, 2), blocks.k.expand(shape).flatten(0, 2), blocks.cum.flatten(0, 2)
    )
    found = torch.where(_sees(blocks)[..., None, :, :], found.unflatten(0, shape[:3]), 0)
    kk, qk = found.unbind(-3)
    return kk, qk


def _pairs(rows: Tensor, k: Tensor, cum: Tensor) -> Tensor:
    """The sum for i >= j; anything finite elsewhere.

    The later half meets the earlier one at its last token m: cum_i - cum_m and cum_m - cum_j are
    both at most 0, so nothing overflows however strong the decay; the halves are halved again.

    Args:
        rows: (N, 2, n, D), keys and queries.
        k: (N, n, D).
        cum: (N, n, D).

    Returns:
        (N, 2, n, n).
    """
    n = k.shape[1]
    if n <= LEAF:
        later = torch.ones(n, n, dtype=torch.bool, device=k.device).triu_(1)
        decay = (cum[:, :, None] - cum[:, None]).masked_fill(later[..., None], -torch.inf).exp()
        return torch.einsum("nsid,nijd->nsij", rows, decay * k[:, None])
    halves = [n // 2, n - n // 2]
    (rows_1, rows_2), (k_1, k_2), (cum_1, cum_2) = (x.split(halves, dim=-2) for x in (rows, k, cum))
    middle = cum_1[:, -1:]
    left = (rows_2 * torch.exp(cum_2 - middle)[:, None]).flatten(1, 2)
    right = k_1 * torch.exp(middle - cum_1)
    across = torch.bmm(left, right.transpose(1, 2)).unflatten(1, (2, halves[1]))
    above = torch.nn.functional.pad(_pairs(rows_1, k_1, cum_1), (0, halves[1]))
    below = torch.cat((across, _pairs(rows_2, k_2, cum_2)), dim=-1)
    return torch.cat((above, below), dim=-2)
