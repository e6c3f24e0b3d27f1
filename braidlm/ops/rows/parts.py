"""What stands before and behind a product of few rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Read(NamedTuple):
    """Rows, and the norm that whoever reads them applies."""

    x: Tensor
    """(n, K)."""
    has_norm: bool = False
    """Whether x is divided by its root mean square over all K channels."""
    scale: Tensor | None = None
    """(K,): the norm's weight, or None."""
    offset: float = 0.0
    """Added to the weight."""
    eps: float = 0.0
    """Added to the mean square."""
    squares: Tensor | None = None
    """(n, S): sums of squares that together are those of what the norm averages; x then is that
    times whatever stands behind the norm. None: x is averaged."""
    normed: Tensor | None = None
    """(n, K): what all of the above makes of x, where that is known already."""


class Owed(NamedTuple):
    """What is still to be added to rows, by whoever norms them next."""

    parts: Tensor
    """(S, n, N), at least fp32: a product in shares of its inputs; their sum is meant."""
    factor: float
    """Multiplies the sum."""
    squares: Tensor | None = None
    """(n, any number): what rows were multiplied are still to be divided by the root of the mean
    of these sums; None: they are not."""
    width: int = 1
    """Of the rows, what the mean counts."""
    eps: float = 0.0
    """Added to the mean."""

    def added_to(self, x: Tensor) -> Tensor:
        """Return x (..., N) with what it is owed, in its dtype."""
        total = self.factor * self.parts.sum(0)
        if self.squares is not None:
            mean = self.squares.to(total.dtype).sum(-1, keepdim=True) / self.width
            total = total * torch.rsqrt(mean + self.eps)
        return (x.to(total.dtype) + total.view(x.shape)).to(x.dtype)


class ConvStep(NamedTuple):
    """The step of a short convolution with SiLU over some channels of a product."""

    first: int
    """The product's first channel that is convolved; `weight` says how many."""
    weight: Tensor
    """(D, K); the last column multiplies the present token."""
    bias: Tensor | None
    """(D,) or None."""
    state: Tensor
    """(n, K - 1, D): the last inputs; written in place."""


class Ending(NamedTuple):
    """What is done to a product p; in this order."""

    activation: str | None = None
    """Of `ops.activation`, applied to p, or to its first half where it is gated."""
    gated: bool = False
    """Whether the second half of p multiplies the activated first."""
    conv: ConvStep | None = None
    """A convolution over some channels."""
    residual: Tensor | None = None
    """(n, N): what `factor` times p is added to."""
    factor: float = 1.0
    """See `residual`."""


PLAIN = Ending()
