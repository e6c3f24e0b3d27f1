"""What one use of a shared sublayer adds to its input projections: a low-rank product for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Adapters(nn.Module):
    """x (B, T, width) -> [U_1 D_1 x; U_2 D_2 x; ...], one term per matrix of the projection.

    Source: Glorioso et al. 2024 (arXiv 2411.15242), section 2: a different one at each use.
    """

    def __init__(self, width: int, rank: int, out_widths: Sequence[int]) -> None:
        super().__init__()
        self.rank = rank
        self.down = nn.Linear(width, rank * len(out_widths), bias=False)
        self.ups = nn.ModuleList(nn.Linear(rank, n, bias=False) for n in out_widths)

    def reset_parameters(self, std: float) -> None:
        """Draw both factors, as Zamba2 does: trained from the start, neither is zero."""
        nn.init.normal_(self.down.weight, std=std)
        for up in self.ups:
            nn.init.normal_(up.weight, std=std)  # pyright: ignore[reportArgumentType]

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows."""
        return {"down.weight": (self.rank,) * len(self.ups)}

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the projection of x."""
        parts = self.down(x).split(self.rank, dim=-1)
        return torch.cat([up(part) for up, part in zip(self.ups, parts, strict=True)], dim=-1)
