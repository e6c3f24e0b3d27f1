"""Tokens sorted by expert: no product is computed in vain, and none is left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.experts.expert import Activation, opened
from braidlm.ops.experts.order import by_expert, gathered, spread


def experts_sorted(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    function: Activation,
    gated: bool,
) -> Tensor:
    """One pair of products per expert that has tokens; asks the host how many each has."""
    order = by_expert(index)
    counts = torch.bincount(index.flatten(), minlength=w_in.shape[0]).tolist()
    rows = spread(x, order).split(counts)
    shares = weight.flatten().index_select(0, order.order)[:, None].split(counts)
    found = []
    # `unbind` has one gradient for the whole stack; indexing would have a whole one per expert.
    for part, share, a, b in zip(rows, shares, w_in.unbind(), w_out.unbind(), strict=True):
        if len(part):
            found.append(F.linear(opened(F.linear(part, a), function, gated, share), b))
    return gathered(torch.cat(found), order)


def experts_grouped_mm(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    function: Activation,
    gated: bool,
) -> Tensor:
    """Two grouped products of torch over all experts; of one shape, whatever was chosen."""
    order = by_expert(index)
    every = torch.arange(w_in.shape[0], device=x.device)
    experts = index.flatten().index_select(0, order.order)
    ends = torch.searchsorted(experts, every, right=True).to(torch.int32)
    shares = weight.flatten().index_select(0, order.order)[:, None]
    h = F.grouped_mm(spread(x, order), w_in.transpose(1, 2), offs=ends)
    h = opened(h, function, gated, shares)
    return gathered(F.grouped_mm(h, w_out.transpose(1, 2), offs=ends), order)
