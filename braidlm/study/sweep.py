"""A sweep of the learning rate: a study whose arms are rates, at one width or several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braidlm.arch import Recipe
from braidlm.arch.widen import widen
from braidlm.errors import InputError
from braidlm.study.config import Arm, StudyConfig
from braidlm.study.matching import overrides_to
from braidlm.study.study import StudySummary, run_config

MAX_RATES = 50


def rates(text: str, n: int) -> tuple[float, ...]:
    """Return `n` rates in equal ratios from a range such as ``1e-4..1e-2``, four digits each.

    Raises:
        InputError: for a range that does not rise, or a number of rates out of range.
    """
    low, dots, high = text.partition("..")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = math.nan, math.nan
    if not dots or not 0 < ends[0] < ends[1] < math.inf:
        raise InputError(f"--lr {text}: must be two rising rates such as 1e-4..1e-2")
    if not 3 <= n <= MAX_RATES:
        raise InputError(f"--n {n}: must be between 3 and {MAX_RATES}; fewer make no parabola")
    ratio = ends[1] / ends[0]
    return tuple(float(f"{ends[0] * ratio ** (i / (n - 1)):.4g}") for i in range(n))


def run_sweep(
    recipe: Path,
    out: Path,
    lrs: Sequence[float],
    *,
    n_seeds: int = 1,
    widths: Sequence[int] = (),
    overrides: Sequence[str] = (),
    resume: bool = False,
    jobs: int = 0,
    is_silent: bool = False,
    command: Sequence[str] = (),
) -> StudySummary:
    """Train a recipe at every rate, every width and with every seed; other settings as `run_study`.

    Args:
        recipe: the recipe's file.
        out: the sweep's folder.
        lrs: peak learning rates.
        n_seeds: seeds 0 to n_seeds - 1.
        widths: values of d_model, all inner widths in proportion; none: the recipe's own.
        overrides: of the recipe, for every run.

    Raises:
        InputError: as `run_study`, for fewer than one seed, or a width that is not whole.
    """
    if n_seeds < 1:
        raise InputError(f"--seeds {n_seeds}: must be at least 1")
    known = Recipe.load(recipe, overrides)
    arms, points = [], {}
    for width in widths or (known.spec.d_model,):
        wide = _wide_overrides(recipe, overrides, known, width) if widths else []
        for lr in lrs:
            rate = f"lr-{lr:.4g}".replace("+", "")  # the name of a folder
            name = f"d{width}-{rate}" if widths else rate
            label = f"width {width}, rate {lr:.3g}" if widths else f"rate {lr:.3g}"
            arms.append(Arm(name=name, label=label, set=(*wide, f"train.lr={lr!r}")))
            points[name] = {"lr": lr, "width": width}
    config = StudyConfig.of(
        {
            "name": f"{known.name}, learning rates",
            "recipe": recipe.name,
            "set": tuple(overrides),
            "seeds": tuple(range(n_seeds)),
            "arms": tuple(arms),
        }
    )
    return run_config(
        config,
        recipe.parent,
        out,
        resume=resume,
        jobs=jobs,
        is_silent=is_silent,
        command=command,
        extra={"sweep": points},
    )


def _wide_overrides(recipe: Path, overrides: Sequence[str], known: Recipe, width: int) -> list[str]:
    """Return what makes the recipe's model so wide.

    Raises:
        InputError: the width is given twice or makes a size that is not whole.
    """
    try:
        spec = widen(known.spec, width)
    except InputError as error:
        raise InputError(f"--widths {width}: {error}") from None

    def load(more: Sequence[str]) -> Any:
        return Recipe.load(recipe, [*overrides, *more]).spec

    return overrides_to(spec, [f"model.d_model={width}"], load)
