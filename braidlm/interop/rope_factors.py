"""Rotary scaling that a file gives as one divisor for each frequency, found again as a rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from braidlm.errors import InputError
from braidlm.ops.rope import LinearScaling, Llama3Scaling, rope_frequencies

Rule = dict[str, Any]
TOLERANCE = 4e-6
"""Relative: the divisors are computed and stored in fp32, by steps that each round."""
PUBLISHED = (8192, 1.0, 4.0)
"""Original length, and the two factors that bound the blend: of every Llama from 3.1 on."""


def scaling_of(
    factors: Sequence[float], theta: float, dim: int, original: int | None = None
) -> Rule | None:
    """Return the `rope_scaling` with which frequency i is divided by ``factors[i]``.

    Args:
        factors: (dim / 2,) divisors.
        theta: base of the frequencies.
        dim: rotated channels.
        original: tokens of the first training, if it is known.

    Returns:
        Fields of `RopeScaling`; None: all divisors are 1.

    Raises:
        InputError: no rule of ours gives these divisors.
    """
    given = torch.tensor(factors, dtype=torch.float64)
    if len(given) != dim // 2 or not (given.isfinite() & (given > 0)).all():
        raise InputError(f"must be {dim // 2} positive numbers, one for each rotated pair")
    highest = float(given.max())
    if highest == float(given.min()):
        return None if highest == 1.0 else {"kind": "linear", "factor": highest}
    for length, low, high in _candidates(given, theta, dim, original):
        if 0 < low < high and _fits(given, theta, dim, Llama3Scaling(highest, low, high, length)):
            return {
                "kind": "llama3",
                "factor": highest,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_length": length,
            }
    raise InputError("its numbers follow neither the linear nor the llama3 rule of scaling")


def _fits(given: Tensor, theta: float, dim: int, rule: Llama3Scaling | LinearScaling) -> bool:
    plain, scaled = (rope_frequencies(dim, theta, r).double() for r in (None, rule))
    return bool(((plain / scaled / given - 1).abs() < TOLERANCE).all())


def _candidates(
    given: Tensor, theta: float, dim: int, original: int | None
) -> Iterator[tuple[int, float, float]]:
    """Yield lengths and bounds: the published ones, then those of a line through the blend.

    Between the bounds the share that is kept, ``(1 / factor_i - 1 / f) / (1 - 1 / f)``, is linear
    in the turns for each token: ``(length turns_i - low) / (high - low)``. Length and bounds may
    all be multiplied by one number, so that without a length `low` is 1.
    """
    yield (original or PUBLISHED[0], *PUBLISHED[1:])
    turns = rope_frequencies(dim, theta).double() / (2 * math.pi)
    kept = (1 / given - 1 / given.max()) / (1 - 1 / given.max())
    is_blended = (kept > 1e-4) & (kept < 1 - 1e-4)
    if is_blended.sum() < 2:
        return
    rows = torch.stack((turns[is_blended], -torch.ones(int(is_blended.sum())).double()), dim=1)
    slope, offset = torch.linalg.lstsq(rows, kept[is_blended, None]).solution.flatten().tolist()
    if slope <= 0 or offset <= 0:
        return
    length = round(original or slope / offset)
    width = length / slope
    yield length, float(f"{offset * width:.6g}"), float(f"{(1 + offset) * width:.6g}")
