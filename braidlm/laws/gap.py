"""How far two ways to the same logits lie apart, position by position, and what they are fed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.laws.subject import Subject

NOT_FINITE = 1e30
"""Stands for the error of nan and infinity, which JSON lacks."""


class Gap(NamedTuple):
    """The distance of two computations of one thing."""

    case: str
    """What was compared, in words."""
    errors: list[float]
    """One per position."""
    start: int | None = 0
    """Position of the first error in its document; None: these errors have no position."""

    @property
    def largest(self) -> float:
        """The largest error."""
        return max(self.errors, default=0.0)

    def first_beyond(self, tolerance: float) -> int | None:
        """Return the first position whose error exceeds the tolerance."""
        if self.start is None:
            return None
        beyond = (i for i, error in enumerate(self.errors) if error > tolerance)
        return next((self.start + i for i in beyond), None)


@dataclass(frozen=True)
class Plan:
    """What a subject is fed."""

    lengths: tuple[int, ...]
    """Tokens of the sequences: below, at and beyond several chunks."""
    seed: int
    n_drift: int = 0
    """Tokens over which rounding may add up; 0: the longest of the lengths."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    def tokens(self, subject: Subject, *shape: int) -> Tensor:
        """Return random tokens on the subject's device, the same ones for the same shape."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(subject.vocab_size, shape, generator=generator)
        return drawn.to(subject.device)


def lengths_around(span: int) -> tuple[int, ...]:
    """Return lengths below, at and beyond several spans of so many tokens."""
    return (span // 2 + 1, span, 3 * span + 5)


def gap(case: str, found: Tensor, expected: Tensor, start: int = 0) -> Gap:
    """Return the largest difference of logits (T, V) at each position over their spread.

    The spread is the standard deviation of the expected logits: 1 is as wrong as another model.
    """
    expected = expected.detach().double()
    spread = float(expected.std()) or 1.0
    errors = (found.detach().double() - expected).abs().amax(-1) / spread
    return Gap(case, [_finite(e) for e in errors.tolist()], start)


def relative_gap(case: str, found: Tensor, expected: Tensor, window: int = 8) -> Gap:
    """Return the relative L2 error of logits (T, V) at each position, the median of a window.

    One position may lie on the edge of a router's choice; a window of them does not.
    """
    expected = expected.detach().double()
    errors = (found.detach().double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    padded = torch.cat([errors[:1].expand(window - 1), errors])
    medians = padded.unfold(0, window, 1).median(dim=-1).values
    return Gap(case, [_finite(e) for e in medians.tolist()])


def _finite(error: float) -> float:
    return error if math.isfinite(error) else NOT_FINITE
