"""What the arms of a study have in common: computed from their declarations, never claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from braidlm.arch import Recipe
from braidlm.arch.cost import cost, train_flops
from braidlm.errors import InputError

TOLERANCE = 0.01
"""Largest spread, as a share of the largest value, at which a quantity counts as matched."""

Quantity = Literal["parameters", "training tokens", "training FLOPs", "cache bytes"]
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
    at_context = cost(recipe.spec, context)
    return {
        "parameters": at_context.n_params,
        "training tokens": tokens,
        "training FLOPs": train_flops(recipe.spec, length, tokens),
        "cache bytes": at_context.cache_bytes,
    }


def matched(arms: Mapping[str, Quantities]) -> list[str]:
    """Return the names of the quantities in which all arms agree within `TOLERANCE`."""
    names = next(iter(arms.values()))
    return [name for name in names if _agree([arm[name] for arm in arms.values()])]


def check_matched(arms: Mapping[str, Quantities], required: Sequence[str]) -> None:
    """Refuse arms that differ in a quantity that the study wants equal.

    Raises:
        InputError: naming the quantity and the arms with the least and the most of it.
    """
    for name in required:
        values = {arm: found[name] for arm, found in arms.items()}
        if not _agree(list(values.values())):
            low, high = (pick(values, key=lambda arm: values[arm]) for pick in (min, max))
            raise InputError(
                f"require_matched: the arms' {name} must agree within {TOLERANCE:.0%}, but "
                f"'{low}' has {values[low]:,} and '{high}' has {values[high]:,}"
            )


def _agree(values: list[int]) -> bool:
    return max(values) - min(values) <= TOLERANCE * max(values)
