"""Every expert over every token in two products: of one shape, and for few tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.ops.experts.expert import Activation, opened


def experts_batched(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    function: Activation,
    gated: bool,
) -> Tensor:
    """`dense` without its loop; factors are zero where an expert was not chosen.

    All experts go up in one matrix product (N, D) x (D, E R), and down in E of them.
    """
    n_experts = w_in.shape[0]
    share = weight.new_zeros(len(x), n_experts).scatter(1, index, weight)
    h = F.linear(x, w_in.flatten(0, 1)).unflatten(1, (n_experts, -1))
    h = opened(h, function, gated, share[..., None])
    out = torch.bmm(h.transpose(0, 1), w_out.transpose(1, 2))
    return out.sum(0, dtype=state_dtype(x.dtype)).to(x.dtype)
