"""Random weights under which every part of a model can be seen from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def enliven(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value that matters: no norm is 1, no bias 0, no decay forgets at once.

    Usual initial weights are so small, and forget so fast, that a leak from far away stays below
    any tolerance. Parameters are told apart by the names that mamba_ssm, transformers and this
    package share.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(parameter: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(parameter.shape, generator=generator)

    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            value = uniform(parameter, 0.02, 2.0).log()
        elif name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_bias")):
            value = uniform(parameter, -8.0, 0.5)  # steps of 3e-4 to 1: some meet any clamp
        elif parameter.dim() == 1:
            value = uniform(parameter, 0.5, 1.5) * torch.where(
                uniform(parameter, 0.0, 1.0) < 0.8, 1.0, -1.0
            )
        else:
            value = torch.randn(parameter.shape, generator=generator)
            value = value * parameter.shape[-1] ** -0.5
        parameter.copy_(value)
