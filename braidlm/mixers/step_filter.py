r"""Tokens that long memories skip: their steps dt become 0, which neither decays nor writes.

A Mamba layer has ``step_rule``, called with its steps where documents begin; None: nothing is
changed. There are two rules. `StepCurve` watches rows of the training and remembers how dt is
distributed; `StepFilter` skips what is small::

    q_c(u)    the dt that a share u of the tokens exceeds, in channel c
    Sum_c     L mean_u q_c(u)          what L tokens, a trained length, decay by: exp(-rate_c Sum_c)
    global    exp(-rate_c Sum_c) > min_decay
    g_c(S)    q_c(u) with int_0^u q_c = (L / S) int_0^1 q_c
    dt'_t,c   0 if c is global, S > L and dt_t,c < g_c(S), else dt_t,c

S tokens of which a share u is kept then decay a state as L tokens do. S is the length of the whole
document in this call, and the only thing about later tokens that an earlier one is told.

Source: Ye et al. 2025 (arXiv 2504.16053), LongMamba. Its published code averages g over the
calibration's texts (here their dt are pooled: rows of several sources differ) and takes the S of a
table that is nearest.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.segments import Segments

POINTS = 4096
"""Shares at which a distribution is kept."""


class StepRule(Protocol):
    """What may change the steps of a layer."""

    def __call__(self, dt: Tensor, segments: Segments | None) -> Tensor:
        """Return the steps (B, T, n_channels) that count, given those of the tokens."""
        ...


class StepCurve:
    """Changes nothing and remembers dt.

    Args:
        clamp_percent: so many percent of a channel's values, the largest, count as the smallest of
            them.
    """

    def __init__(self, clamp_percent: float) -> None:
        self.clamp = clamp_percent / 100
        self.length, self._seen = 0, list[Tensor]()

    def __call__(self, dt: Tensor, segments: Segments | None) -> Tensor:
        """Return dt (B, T, n_channels) as it is."""
        longest = dt.shape[1] if segments is None else segments.max_length
        self.length = max(self.length, longest)
        self._seen.append(dt.flatten(0, 1) if segments is None else dt[segments.is_real])
        return dt

    @property
    def values(self) -> Tensor:
        """(n, n_channels) float64: what was seen, the largest first, `POINTS` shares of it at most.

        Each channel is sorted by itself.
        """
        ordered = torch.cat(self._seen).double().sort(dim=0, descending=True).values
        n_clamped = int(len(ordered) * self.clamp)
        if n_clamped:
            ordered = ordered.clamp(max=ordered[n_clamped - 1])
        if len(ordered) <= POINTS:
            return ordered
        return F.interpolate(ordered.T[None], POINTS, mode="linear")[0].T


class StepFilter:
    """Skips tokens with a small dt in global channels, in documents longer than the trained length.

    Args:
        curve: what calibrates.
        rate: (n_channels,) of decay, the slowest of a channel.
        min_decay: what is left of a global channel's state after the trained length, at least.
    """

    def __init__(self, curve: StepCurve, rate: Tensor, min_decay: float) -> None:
        values = curve.values
        self.length = curve.length
        total = values.mean(0) * curve.length
        self.is_global = torch.exp(-rate.double() * total) > min_decay
        self._values = values.T.contiguous()
        self._shares = (values.cumsum(0) / values.sum(0)).T.contiguous()
        self._counts = torch.zeros(2, dtype=torch.int64, device=values.device)

    def __call__(self, dt: Tensor, segments: Segments | None) -> Tensor:
        """Return dt (B, T, n_channels) with 0 where a token is skipped.

        Raises:
            ValueError: gradients are wanted.
        """
        if torch.is_grad_enabled():
            raise ValueError("step_rule: tokens are filtered without gradients only, not trained")
        if segments is None:
            limits = self.limits(torch.tensor([dt.shape[1]], device=dt.device))[:, None]
        elif segments.n_docs == 0:
            return dt
        else:
            limits = self.limits(segments.lengths)[segments.doc.clamp_min(0)]
        is_skipped = dt < limits
        self._count(is_skipped, segments)
        return torch.where(is_skipped, 0, dt)

    def limits(self, lengths: Tensor) -> Tensor:
        """Return the smallest dt that counts (n, n_channels) in documents of (n,) tokens."""
        left = (self.length / lengths).clamp(max=1).double()
        wanted = left.expand(len(self._shares), -1).contiguous()
        place = torch.searchsorted(self._shares, wanted).clamp(max=self._values.shape[1] - 1)
        found = self._values.gather(1, place).T
        counts_all = (lengths <= self.length)[:, None] | ~self.is_global
        return found.masked_fill(counts_all, -math.inf)

    @property
    def counts(self) -> tuple[int, int]:
        """Steps of global channels so far: those that counted, and all; of documents alone."""
        kept, seen = self._counts.tolist()
        return kept, seen

    def _count(self, is_skipped: Tensor, segments: Segments | None) -> None:
        is_asked = self.is_global.expand_as(is_skipped)
        if segments is not None:
            is_asked = is_asked & segments.is_real[..., None]
        seen = is_asked.sum()
        self._counts += torch.stack((seen - (is_asked & is_skipped).sum(), seen))
