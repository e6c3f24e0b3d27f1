"""RMSNorm as a module."""

import torch
from torch import Tensor, nn

from braidlm.ops.add_norm import add_rms_norm
from braidlm.ops.norm import rms_norm


class RMSNorm(nn.Module):
    """RMSNorm over the last axis, in `n_groups` equal groups of channels.

    The channels' factors are `offset` + weight.
    """

    def __init__(self, width: int, eps: float, n_groups: int = 1, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.n_groups = n_groups
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as a norm without gain."""
        nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Norm x (..., width)."""
        return rms_norm(x, self.weight, self.eps, offset=self.offset, n_groups=self.n_groups)

    def after_sum(
        self, hidden: Tensor, added: Tensor, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return hidden + added (..., width) and its norm in `dtype`, by one operator."""
        return add_rms_norm(hidden, added, self.weight, self.eps, offset=self.offset, dtype=dtype)
