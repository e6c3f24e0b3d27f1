"""What the arms of a study have in common: computed from their declarations, never claimed."""

from __future__ import annotations

from collections.abc import Mapping

from braidlm.arch import Recipe
from braidlm.arch.cost import cost, train_flops

TOLERANCE = 0.01
"""Largest relative spread at which a quantity counts as matched."""

Quantities = dict[str, int]


def quantities(recipe: Recipe, context: int) -> Quantities:
    """Return the budgets of one run.

    Args:
        recipe: the run's complete recipe.
        context: tokens at which the cache is counted.

    Returns:
        Parameters; training tokens; training FLOPs (canonical convention, at the training
        length); cache bytes at `context` (bf16 KV, fp32 state, one sequence).
    """
    length = recipe.data.seq_len
    tokens = recipe.train.steps * recipe.train.batch_size * length
    return {
        "parameters": cost(recipe.spec, context).n_params,
        "training tokens": tokens,
        "training FLOPs": train_flops(recipe.spec, length, tokens),
        "cache bytes": cost(recipe.spec, context).cache_bytes,
    }


def matched(arms: Mapping[str, Quantities]) -> list[str]:
    """Return the names of the quantities in which all arms agree within `TOLERANCE`."""
    names = next(iter(arms.values()))
    out = []
    for name in names:
        values = [arm[name] for arm in arms.values()]
        if max(values) - min(values) <= TOLERANCE * max(values):
            out.append(name)
    return out
