"""What an arm costs, from its resolved config alone."""

from __future__ import annotations

from typing import Any

from braidlm.arch.cost import cost, train_flops
from braidlm.arch.recipe import Recipe
from braidlm.errors import InputError

NAMES = (
    "pattern",
    "n_params",
    "n_active_params",
    "training_tokens",
    "training_flops",
    "kv_bytes",
    "state_bytes",
    "cache_bytes",
    "cost_error",
)


def arch_figures(config: dict[str, Any], context: int) -> dict[str, Any]:
    """The cost figures of one resolved config; see `docs/cost.md` for the conventions.

    Args:
        config: the recipe as plain data (config.json).
        context: tokens at which the cache is stated.

    Returns:
        A dict of `NAMES`: the pattern; parameters; `training_tokens` and `training_flops` of the
        whole run (model FLOPs, forward and backward); `kv_bytes` (bf16), `state_bytes` (fp32) and
        their sum `cache_bytes` of one sequence. A config that cannot be resolved gives None
        everywhere but in `pattern`, and the reason in `cost_error`.
    """
    model = config.get("model")
    empty = dict.fromkeys(NAMES) | {"pattern": _text(model, "pattern")}
    try:
        recipe = Recipe.from_dict(config)
    except InputError as error:
        return empty | {"cost_error": str(error)}
    train, found = recipe.train, cost(recipe.spec, context)
    tokens = train.steps * train.batch_size * recipe.data.seq_len
    return {
        "pattern": recipe.spec.pattern,
        "n_params": found.n_params,
        "n_active_params": found.n_active_params,
        "training_tokens": tokens,
        "training_flops": train_flops(recipe.spec, recipe.data.seq_len, tokens),
        "kv_bytes": found.kv_bytes,
        "state_bytes": found.state_bytes,
        "cache_bytes": found.cache_bytes,
        "cost_error": None,
    }


def _text(table: Any, key: str) -> str | None:
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None
