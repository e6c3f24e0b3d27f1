"""How the step sizes of recurrences begin."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def draw_dt_bias(dt_bias: Tensor, low: float, high: float, floor: float) -> None:
    """Fill `dt_bias` so that softplus of it is log-uniform in [low, high], at least `floor`.

    Source: Gu and Dao 2023 (arXiv 2312.00752), section 3.6.
    """
    dt = torch.exp(torch.empty_like(dt_bias).uniform_(math.log(low), math.log(high)))
    dt = dt.clamp_min(floor)
    dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
