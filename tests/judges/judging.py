"""What every comparison with a judge needs: exact arithmetic, lively weights, distances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from braidlm.laws.lively import enliven
from braidlm.laws.widened import Widened

__all__ = ["Widened", "distance", "enliven", "gradients", "probe", "relative"]


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
