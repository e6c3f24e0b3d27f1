"""What modules tell of themselves when asked: numbers for people who watch a training.

A mixer or a fusion that has something to tell has ``telemetry(x, segments)``, which returns named
() tensors. It may compute again what `forward` has computed: it is asked now and then only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from braidlm.segments import Segments


@torch.no_grad()
def telemetry(
    module: nn.Module, x: Tensor, segments: Segments | None, **asked: Any
) -> dict[str, Tensor]:
    """Return what `module` tells of the call with x (B, T, d_model); {} if it tells nothing."""
    tells = getattr(module, "telemetry", None)
    return {} if tells is None else tells(x, segments, **asked)


def real(x: Tensor, segments: Segments | None) -> Tensor:
    """Return the entries of x (B, T, ...) that belong to documents, as (n_tokens, ...) fp32."""
    return (x.flatten(0, 1) if segments is None else x[segments.is_real]).float()


def rms(x: Tensor) -> Tensor:
    """Return the root of the mean square of all entries, a () tensor."""
    return x.square().mean().sqrt()
