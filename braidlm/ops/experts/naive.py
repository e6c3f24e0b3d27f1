"""The truth: every expert over every token, weighted by zero where it was not chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.ops.experts.expert import Activation, expert


def experts_dense(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    function: Activation,
    gated: bool,
) -> Tensor:
    """y_t = sum over e of (sum of weight_tj where index_tj = e) * expert_e(x_t), e ascending.

    Its shapes depend on no choice, so a token's result depends, to the bit, on that token alone.
    """
    y = torch.zeros(x.shape, dtype=state_dtype(x.dtype), device=x.device)
    for e, (a, b) in enumerate(zip(w_in.unbind(), w_out.unbind(), strict=True)):
        share = (weight * (index == e)).sum(-1, keepdim=True)
        y = y + share * expert(x, a, b, function, gated)
    return y.to(x.dtype)
