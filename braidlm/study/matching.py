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
from braidlm.study.config import Arm, StudyConfig

ARM_TOLERANCE = TOLERANCE / 2
"""Largest distance from the reference: two arms on either side of it are then matched too."""


def match_arms(
    config: StudyConfig, folder: Path
) -> tuple[StudyConfig, dict[str, tuple[Change, ...]]]:
    """Return the study with the overrides that resize its arms, and what each arm's changes are.

    Without `[match]` the study is returned as it is. `folder` is where the study's file lies.

    Raises:
        InputError: naming the arm that cannot be, or cannot be matched.
    """
    rule = config.match
    if rule is None:
        return config, {}
    recipes = {arm.name: config.recipe_of(arm, config.seeds[0], folder) for arm in config.arms}
    goal = recipes[rule.reference]
    context = rule.context or (goal.data.seq_len if rule.on == "flops" else config.context)
    arms, changes = [], {}
    for arm in config.arms:
        own = recipes[arm.name].spec
        try:
            found = match(
                goal.spec, own, rule.on, context, tolerance=ARM_TOLERANCE, factor=rule.factor
            )
        except InputError as error:
            raise InputError(f"match: arm '{arm.name}': {error}") from None
        short = [f"model.{change.field}={change.new}" for change in found.changes]
        more = overrides_to(found.spec, short, _loader(config, arm, folder)) if short else []
        arms.append(arm.model_copy(update={"set": (*arm.set, *more)}))
        changes[arm.name] = found.changes
    return config.model_copy(update={"arms": tuple(arms)}), changes


def as_rows(config: StudyConfig, changes: dict[str, tuple[Change, ...]]) -> dict[str, Any]:
    """Return what `study.json` says of the rule; empty without one."""
    if config.match is None:
        return {}
    rows = {arm: [change._asdict() for change in found] for arm, found in changes.items()}
    rule = config.match.model_dump()
    return {"match": {**rule, "tolerance": ARM_TOLERANCE, "changes": rows}}


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


def _loader(config: StudyConfig, arm: Arm, folder: Path) -> Callable[[Sequence[str]], Spec]:
    def load(more: Sequence[str]) -> Spec:
        changed = arm.model_copy(update={"set": (*arm.set, *more)})
        return config.recipe_of(changed, config.seeds[0], folder).spec

    return load
