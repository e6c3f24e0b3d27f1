"""What must agree before a run may go on, and what travels with its checkpoints."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from braidlm.arch import Recipe
from braidlm.arch.config import differences
from braidlm.errors import InputError

FREE_FIELDS = frozenset(
    {
        "train.steps",
        "train.log_every",
        "train.telemetry_every",
        "train.log_to",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.activation_checkpointing",
        "data.cache_dir",
    }
)
"""What may change from one session of a run to the next."""


def check_same_run(stored: dict[str, Any], recipe: Recipe, where: str | Path) -> None:
    """Refuse to go on with a recipe that is not the one the run was started with.

    Name, tasks and `FREE_FIELDS` may differ.

    Raises:
        InputError: naming the first field of seed, init, model, data or train that differs.
    """
    # Read through today's Recipe: a field that is newer than the run has its default on both sides.
    before = Recipe.from_dict(stored, f"{where}/config.json").to_dict()
    now = recipe.to_dict()
    for part in ("seed", "init", "model", "data", "train"):
        for path, old, new in differences(before.get(part), now.get(part), part):
            if path not in FREE_FIELDS:
                raise InputError(
                    f"{where} cannot be resumed with this recipe: {path} = {new!r}, "
                    f"but the run was started with {old!r}"
                )


def random_states() -> dict[str, Any]:
    """Return the states of Python's and torch's generators as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    return {
        "python": [version, list(numbers), gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put `random_states` back; a CUDA state without its device is left out."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
