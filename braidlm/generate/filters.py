"""From logits to the distribution that is sampled, and from a uniform number to a token.

Pure functions of the last axis, in fp64. Order: temperature, then top-k, then top-p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from braidlm.errors import InputError

SLACK = 1e-9
"""top-p stops at `mass - SLACK`: 0.5 + 0.3 reaches 0.8 whatever its last bits are."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Raises:
        InputError: a field outside its range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token (the first of equals)."""
    top_p: float = 1.0
    """In (0, 1]: the nucleus's probability; 1 keeps every token."""
    top_k: int = 0
    """Tokens kept; 0 keeps every token."""
    seed: int = 0
    """Of the random numbers; row i has a stream of its own, named by (seed, i)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature = {self.temperature}: must be a number of at least 0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p}: must be greater than 0 and at most 1")
        if self.top_k < 0:
            raise InputError(f"top_k = {self.top_k}: must be 0 (every token) or more")
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be 0 or more")


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature) (..., V) in fp64; `temperature` is greater than 0."""
    logits = logits.to(torch.float64)
    # The largest goes first, so that a tiny temperature gives -inf and not nan.
    return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)


def top_k(p: Tensor, k: int) -> Tensor:
    """Keep the `k` most probable tokens of p (..., V) and all that tie with the last of them.

    A `k` of 0, or of V and more, keeps everything.
    """
    if not 0 < k < p.shape[-1]:
        return p
    least = p.topk(k, dim=-1).values[..., -1:]
    return _normal(p.masked_fill(p < least, 0))


def top_p(p: Tensor, mass: float) -> Tensor:
    """Keep the fewest most probable tokens of p (..., V) that together have at least `mass`.

    Tokens that tie with the least probable of them stay too, so that the choice does not depend
    on the order of the vocabulary. `mass` is in (0, 1]; 1 keeps everything.

    Source: Holtzman et al. 2020 (arXiv 1904.09751), section 3.1, nucleus sampling.
    """
    if mass >= 1:
        return p
    ranked = p.sort(dim=-1, descending=True).values
    before = ranked.cumsum(-1) - ranked
    n_kept = (before < mass - SLACK).sum(-1, keepdim=True).clamp_min(1)
    return _normal(p.masked_fill(p < ranked.gather(-1, n_kept - 1), 0))


def distribution(logits: Tensor, temperature: float, k: int, mass: float) -> Tensor:
    """Return the distribution (..., V) that is sampled; `temperature` is greater than 0."""
    return top_p(top_k(probabilities(logits, temperature), k), mass)


def choose(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Return a token (n,) for each row of logits (n, V); no number of it goes to the host.

    Args:
        logits: in at least fp32.
        sampling: how.
        uniform: (n,) fp64 in [0, 1), not read at a temperature of 0.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    p = distribution(logits, sampling.temperature, sampling.top_k, sampling.top_p)
    return pick(p, uniform).clamp_max(logits.shape[-1] - 1)  # only nan comes that far


def pick(p: Tensor, uniform: Tensor) -> Tensor:
    """Return the token (...) at which the cumulative sum of p (..., V) passes `uniform` (...).

    With `uniform` even in [0, 1) token i comes with probability p_i; one of probability 0 never.
    """
    sums = p.cumsum(-1)
    total = sums[..., -1:]
    wanted = torch.minimum(uniform[..., None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(sums, wanted, right=True)[..., 0]


def _normal(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True)
