"""What every comparison with a judge needs: exact arithmetic, lively weights, distances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
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


@torch.no_grad()
def enliven(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value that matters: no norm is 1, no bias 0, no decay forgets at once.

    Parameters are told apart by the names that mamba_ssm, transformers and others share.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(parameter: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(parameter.shape, generator=generator)

    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            value = uniform(parameter, 0.02, 2.0).log()
        elif name.endswith("dt_bias"):
            value = uniform(parameter, -3.0, 0.5)
        elif parameter.dim() == 1:
            value = uniform(parameter, 0.5, 1.5) * torch.where(
                uniform(parameter, 0.0, 1.0) < 0.8, 1.0, -1.0
            )
        else:
            value = torch.randn(parameter.shape, generator=generator)
            value = value * parameter[0].numel() ** -0.5
        parameter.copy_(value)


def probe(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """A fixed random direction: the gradient of ``(output * probe).sum()`` is compared."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(value: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Gradient of a scalar for each parameter of the model, zero where it does not depend on it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, materialize_grads=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


def distance(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.detach().double() - b.detach().double()).abs().max())


def relative(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest difference of any tensor, relative to the largest entry of that tensor."""
    assert set(a) == set(b)
    assert all(float(b[k].abs().max()) > 0 for k in b), "a gradient that is zero tests nothing"
    return max(distance(a[k], b[k]) / float(b[k].abs().max()) for k in b)
