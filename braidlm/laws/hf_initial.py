"""Initial values of recurrences in transformers, and the ranges that were published for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.laws.subject import Drawn

MAMBA = "Mamba, arXiv 2312.00752"
MAMBA2 = "Mamba-2, arXiv 2405.21060"
DELTA = "Gated DeltaNet, arXiv 2412.06464"
KDA = "Kimi Linear, arXiv 2510.26692"
SMALLEST_A = 1e-6
"""A uniform draw from 0 reaches 0 only in theory."""


def drawn(model: nn.Module) -> Iterator[Drawn]:
    """Yield dt, A and D of every mixer that has a parameter A_log."""
    config: Any = model.config
    for name, module in model.named_modules():
        if "A_log" in module._parameters:
            yield from _of_mixer(name, module, config.get_text_config())


def _of_mixer(name: str, module: Any, config: Any) -> Iterator[Drawn]:
    """Tell the kinds apart by what lies beside A_log."""
    A = torch.exp(module.A_log)
    bias = _step_bias(module)
    is_selective = "dt_bias" not in module._parameters
    source = MAMBA if is_selective else MAMBA2 if "D" in module._parameters else DELTA
    if is_selective:
        expected = torch.arange(1, A.shape[-1] + 1)
        yield Drawn(f"{name}: A / (1 ... {A.shape[-1]})", A / expected, 1.0, 1.0, source)
    elif source == MAMBA2 or A.dim() > 1:
        yield Drawn(f"{name}: A", A, 1.0, 16.0, source if A.dim() == 1 else KDA)
    else:
        yield Drawn(f"{name}: A", A, SMALLEST_A, 16.0, source)
    if bias is not None:
        low, high = _steps(config)
        yield Drawn(f"{name}: dt", F.softplus(bias), low, high, source)
    if "D" in module._parameters:
        yield Drawn(f"{name}: D", module.D, 1.0, 1.0, source)


def _step_bias(module: Any) -> Tensor | None:
    for owner, field in ((module, "dt_bias"), (module, "dt_proj_bias")):
        if field in owner._parameters:
            return owner._parameters[field]
    return module.dt_proj.bias if hasattr(module, "dt_proj") else None


def _steps(config: Any) -> tuple[float, float]:
    """The range of the first step size: the configuration's, or that which every paper uses."""
    lows = (getattr(config, field, None) for field in ("time_step_min", "linear_dt_min"))
    highs = (getattr(config, field, None) for field in ("time_step_max", "linear_dt_max"))
    return next((x for x in lows if x), 1e-3), next((x for x in highs if x), 0.1)
