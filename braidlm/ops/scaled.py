"""A factor that a declaration names: a number of the model's function that is not trained."""

from __future__ import annotations

from torch import Tensor


def scaled(x: Tensor, factor: float) -> Tensor:
    """Return x times `factor`; x itself where the factor is 1, as it is by default."""
    return x if factor == 1.0 else x * factor
