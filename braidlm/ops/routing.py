"""Which experts a token uses and with what weight; and how even the choices of many tokens are.

Axes: N tokens, E experts, k chosen ones. Everything is at least fp32.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from braidlm.ops.dispatch import check_shape

TINY = 1e-20
"""Added to a sum of sigmoid scores before dividing by it, as DeepSeek-V3 does."""


class Routing(NamedTuple):
    """The choice of each token."""

    index: Tensor
    """(N, k) int64: the chosen experts, the best first; all different."""
    weight: Tensor
    """(N, k): factors of their outputs."""
    shares: Tensor
    """(N, E): scores over all experts, summing to one: what the balance loss evens."""


def route(
    logits: Tensor,
    top_k: int,
    *,
    scores: Literal["softmax", "sigmoid"] = "softmax",
    topk_first: bool = False,
    norm_topk: bool = True,
    scale: float = 1.0,
    n_groups: int = 1,
    topk_group: int = 1,
    bias: Tensor | None = None,
) -> Routing:
    """Choose the experts with the k largest s_e + bias_e; their weights are scale * s_e.

    s = softmax(logits) or sigmoid(logits). With `norm_topk` the chosen s_e are divided by their
    sum. With `topk_first` the choice is by logits + bias, and the weights are the softmax over the
    chosen logits (without a bias that is softmax and `norm_topk`). With groups only experts of the
    `topk_group` best can be chosen; a group is as good as the sum of its two best s_e + bias_e.

    Args:
        logits: (N, E), at least fp32.
        top_k: k, experts of each token.
        scores: what makes scores of logits.
        topk_first: see above; softmax only.
        norm_topk: see above.
        scale: factor on all weights.
        n_groups: equal, contiguous groups of experts.
        topk_group: groups that a token may choose from.
        bias: (E,) added for the choice alone: it gets no gradient and is in no weight.

    Raises:
        ValueError: a bias that is not (E,).

    Source: Shazeer et al. 2017 (arXiv 1701.06538); DeepSeek-V3 (arXiv 2412.19437), eq. 12 to 16.
    """
    whole = logits.softmax(-1) if scores == "softmax" else logits.sigmoid()
    graded = logits if topk_first else whole
    index = _best(graded.detach(), top_k, n_groups, topk_group, bias)
    weight = graded.gather(-1, index)
    if topk_first:
        weight = weight.softmax(-1)
    elif norm_topk:
        weight = weight / (weight.sum(-1, keepdim=True) + TINY)
    shares = whole if scores == "softmax" else whole / (whole.sum(-1, keepdim=True) + TINY)
    return Routing(index, weight if scale == 1.0 else weight * scale, shares)


def _best(
    graded: Tensor, top_k: int, n_groups: int, topk_group: int, bias: Tensor | None
) -> Tensor:
    """(N, E) -> (N, k)."""
    if bias is not None:
        check_shape("route", "bias", bias, tuple(graded.shape[1:]))
        graded = graded + bias
    if topk_group < n_groups:
        grouped = graded.unflatten(-1, (n_groups, -1))
        two = min(2, grouped.shape[-1])
        chosen = grouped.topk(two, dim=-1).values.sum(-1).topk(topk_group, dim=-1).indices
        is_open = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, chosen, True)
        graded = grouped.masked_fill(~is_open[..., None], -torch.inf).flatten(-2)
    return graded.topk(top_k, dim=-1).indices


def loads(index: Tensor, n_experts: int, is_real: Tensor | None = None) -> Tensor:
    """Count the tokens of each expert.

    Args:
        index: (R, S, k): the choices of R sets of S tokens.
        n_experts: E.
        is_real: (R, S) bool; others are not counted. None: all are.

    Returns:
        (R, E) int64.
    """
    n_sets = index.shape[0]
    if is_real is not None:  # what is not counted goes to a bin of its own
        index = index.masked_fill(~is_real[..., None], n_experts)
    bins = index + (n_experts + 1) * torch.arange(n_sets, device=index.device)[:, None, None]
    counts = torch.bincount(bins.flatten(), minlength=n_sets * (n_experts + 1))
    return counts.view(n_sets, n_experts + 1)[:, :n_experts]


def balance_loss(load: Tensor, shares: Tensor, is_real: Tensor | None = None) -> Tensor:
    """E sum_e f_e P_e, with f_e = load_e / n and P_e the mean share of e over the n tokens.

    It is k where both are even, and at least k where they agree. Only P has a gradient. Of several
    sets the mean is returned, each weighing as many as its tokens.

    Args:
        load: (R, E) of `loads`, over the same tokens.
        shares: (R, S, E) of `route`.
        is_real: (R, S) bool, or None: all are.

    Returns:
        (), 0 without any token.

    Source: Fedus et al., "Switch Transformers" (arXiv 2101.03961), eq. 4 to 6; for k > 1 as in
        Mixtral. By rows it is the sequence-wise loss of DeepSeek-V3 (arXiv 2412.19437), eq. 17.
    """
    if is_real is None:
        n = torch.full_like(load[:, 0], shares.shape[1], dtype=shares.dtype)
    else:
        shares = shares * is_real[..., None]
        n = is_real.sum(-1).to(shares.dtype)
    each = (load * shares.sum(1)).sum(-1) / n.clamp_min(1)  # n_r times the loss of set r, over E
    return load.shape[-1] * each.sum() / n.sum().clamp_min(1)


def z_loss(logits: Tensor, is_real: Tensor | None = None) -> Tensor:
    """Mean of logsumexp(logits)^2 over tokens: keeps logits small.

    Args:
        logits: (..., E).
        is_real: (...) bool, or None: all are.

    Source: Zoph et al., "ST-MoE" (arXiv 2202.08906), eq. 5.
    """
    squares = logits.logsumexp(-1).square()
    if is_real is None:
        return squares.mean()
    return (squares * is_real).sum() / is_real.sum().clamp_min(1)


def mean_entropy(shares: Tensor) -> Tensor:
    """Mean entropy in nats of shares (N, E): log E where a router cannot decide, 0 where it has."""
    return torch.special.entr(shares).sum(-1).mean()
