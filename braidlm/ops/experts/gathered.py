"""The chosen experts' weights are copied for each token: of one shape, and for few tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops.dispatch import state_dtype
from braidlm.ops.experts.expert import Activation, opened


def experts_gathered(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    function: Activation,
    gated: bool,
) -> Tensor:
    """One product of a matrix and a vector per choice; compiled, nothing asks the host."""
    chosen = index.flatten()
    rows = x.repeat_interleave(index.shape[1], dim=0)
    h = torch.bmm(w_in.index_select(0, chosen), rows[..., None])[..., 0]
    h = opened(h, function, gated, weight.flatten()[:, None])
    out = torch.bmm(w_out.index_select(0, chosen), h[..., None])[..., 0]
    return out.view(*index.shape, -1).sum(1, dtype=state_dtype(x.dtype)).to(x.dtype)
