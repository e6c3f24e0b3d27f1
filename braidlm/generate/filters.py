"""From logits to the distribution that is sampled, and from a uniform number to a token.

Pure functions of the last axis, in fp64. Order: temperature, then top-k, then top-p.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-9
"""top-p stops at `mass - SLACK`: 0.5 + 0.3 reaches 0.8 whatever its last bits are."""


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
