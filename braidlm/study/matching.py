"""Arms resized until they agree with one of them: `[match]` of a study file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from braidlm.arch.match import Change, match
from braidlm.arch.spec import Spec
from braidlm.arch.toml import inline, model_table
from braidlm.errors import InputError
from braidlm.study.budget import TOLERANCE
from braidlm.study.config import Arm, Base, StudyConfig, kind_of

ARM_TOLERANCE = TOLERANCE / 2
"""Largest distance from the reference: two arms on either side of it are then matched too."""


def match_arms(
    config: StudyConfig, folder: Path
) -> tuple[StudyConfig, dict[str, tuple[Change, ...]]]:
    """Return the study with the overrides that resize its models, and what each one's changes are.

    Models are those of the arms, or of the bases that they start from. Without `[match]` the study
    is returned as it is. `folder` is where the study's file lies.

    Raises:
        InputError: naming the arm that cannot be, or cannot be matched.
    """
    rule = config.match
    if rule is None:
        return config, {}
    seed = config.seeds[0]
    recipes = {part.name: config.recipe_of(part, seed, folder) for part in config.models}
    goal = recipes[rule.reference]
    found: dict[str, Arm | Base] = {}
    changes: dict[str, tuple[Change, ...]] = {}
    for part in config.models:
        on = (part.match if isinstance(part, Base) else None) or rule.on
        context = rule.context or (goal.data.seq_len if on == "flops" else config.context)
        own = recipes[part.name].spec
        try:
            made = match(goal.spec, own, on, context, tolerance=ARM_TOLERANCE, factor=rule.factor)
        except InputError as error:
            raise InputError(f"match: {kind_of(part)} '{part.name}': {error}") from None
        short = [f"model.{change.field}={change.new}" for change in made.changes]
        more = overrides_to(made.spec, short, _loader(config, part, folder)) if short else []
        found[part.name] = part.model_copy(update={"set": (*part.set, *more)})
        changes[part.name] = made.changes
    resized = {
        "arms": tuple(found.get(arm.name, arm) for arm in config.arms),
        "bases": tuple(found.get(base.name, base) for base in config.bases),
    }
    return config.model_copy(update=resized), changes


def as_rows(config: StudyConfig, changes: dict[str, tuple[Change, ...]]) -> dict[str, Any]:
    """Return what `study.json` says of the rule; empty without one."""
    if config.match is None:
        return {}
    rows = {arm: [change._asdict() for change in found] for arm, found in changes.items()}
    rule = config.match.model_dump()
    own = {base.name: base.match for base in config.bases if base.match}
    return {"match": {**rule, "tolerance": ARM_TOLERANCE, "on_of": own, "changes": rows}}


def overrides_to(
    spec: Spec, short: Sequence[str], load: Callable[[Sequence[str]], Spec]
) -> list[str]:
    """Return overrides that make a recipe's model `spec`: the short ones if those do, else all.

    Args:
        spec: the model to be had.
        short: overrides that may be enough; a recipe that leaves sizes to defaults needs more.
        load: gives the model that a recipe has with more overrides.
    """
    try:
        if load(short) == spec:
            return list(short)
    except InputError:
        pass
    return [f"model={inline(model_table(spec))}"]


def _loader(config: StudyConfig, part: Arm | Base, folder: Path) -> Callable[[Sequence[str]], Spec]:
    def load(more: Sequence[str]) -> Spec:
        changed = part.model_copy(update={"set": (*part.set, *more)})
        return config.recipe_of(changed, config.seeds[0], folder).spec

    return load
