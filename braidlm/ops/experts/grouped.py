"""Tokens sorted by expert: no product is computed in vain, and none is left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.ops.experts.expert import Activation, expert


def experts_sorted(
    x: Tensor, index: Tensor, weight: Tensor, w_in: Tensor, w_out: Tensor, activation: Activation
) -> Tensor:
    """One pair of products per expert that has tokens; asks the host how many each has."""
    order = index.flatten().argsort(stable=True)
    counts = torch.bincount(index.flatten(), minlength=w_in.shape[0]).tolist()
    rows = x.index_select(0, order // index.shape[1]).split(counts)
    # `unbind` has one gradient for the whole stack; indexing would have a whole one per expert.
    stacks = zip(rows, w_in.unbind(), w_out.unbind(), strict=True)
    found = [expert(part, a, b, activation) for part, a, b in stacks if len(part)]
    return _gathered(torch.cat(found), order, weight, x.dtype)


def experts_grouped_mm(
    x: Tensor, index: Tensor, weight: Tensor, w_in: Tensor, w_out: Tensor, activation: Activation
) -> Tensor:
    """Two grouped products of torch over all experts; of one shape, whatever was chosen."""
    flat = index.flatten()
    order = flat.argsort(stable=True)
    every = torch.arange(w_in.shape[0], device=x.device)
    ends = torch.searchsorted(flat[order], every, right=True).to(torch.int32)
    rows = x.index_select(0, order // index.shape[1])
    h = activation(F.grouped_mm(rows, w_in.transpose(1, 2), offs=ends))
    out = F.grouped_mm(h, w_out.transpose(1, 2), offs=ends)
    return _gathered(out, order, weight, x.dtype)


def _gathered(out: Tensor, order: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring rows (N k, D) back into the tokens' order and add each token's, in order of choice."""
    back = out.index_select(0, order.argsort()).view(*weight.shape, -1)
    return (back.to(state_dtype(dtype)) * weight[..., None]).sum(1).to(dtype)
