"""What stands around the selective scan: the steps of its tokens before it, the gate behind it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.dispatch import state_dtype


def steps(dt: Tensor, bias: Tensor | None, is_softplus: bool) -> Tensor:
    """dt + bias, through softplus if asked for, in at least fp32; the bias is (I,) or missing."""
    wide = state_dtype(dt.dtype)
    dt = dt.to(wide) if bias is None else dt.to(wide) + bias.to(wide)
    return F.softplus(dt) if is_softplus else dt


def gated(y: Tensor, z: Tensor | None) -> Tensor:
    """y * SiLU(z), multiplied in at least fp32, in the dtype of y; y itself without z."""
    if z is None:
        return y
    wide = state_dtype(y.dtype)
    return (y.to(wide) * F.silu(z.to(wide))).to(y.dtype)
