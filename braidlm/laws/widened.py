"""Foreign code in fp64 throughout, so that a difference is a defect and not rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Widened(TorchFunctionMode):
    """Run foreign code in fp64 throughout: wherever it asks for fp32, it gets fp64.

    Models cast to fp32 inside norms, softmax, scans and rotary angles, so a model in fp64 is still
    exact only to 1e-7. Under this mode nothing but the precision of such casts changes.
    """

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None):
        if func is torch.Tensor.float:
            return args[0].double()
        kwargs = {k: _widen(v) for k, v in (kwargs or {}).items()}
        return func(*(_widen(a) for a in args), **kwargs)


def _widen(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
