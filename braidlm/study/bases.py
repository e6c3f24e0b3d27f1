"""Arms that start from bases: one arm for every base, with its model, and what is compared.

A study declares treatments and bases apart, because a fair one crosses them. Here each arm becomes
one for every base that it starts from. With several bases its name is ``<base>-<arm>``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from braidlm.arch import Recipe
from braidlm.arch.config import nearest
from braidlm.arch.experiment import DataConfig
from braidlm.arch.match import Change
from braidlm.arch.recipe import override, read_toml
from braidlm.arch.spec import Spec
from braidlm.arch.toml import inline
from braidlm.errors import InputError
from braidlm.study.config import Arm, Base, Comparison, StudyConfig
from braidlm.study.matching import match_arms, overrides_to


def settle(config: StudyConfig, folder: Path) -> tuple[StudyConfig, dict[str, tuple[Change, ...]]]:
    """Return a study whose every arm has one base or none, its models resized, and the changes.

    Args:
        config: the study as it is declared.
        folder: where its file lies.

    Raises:
        InputError: naming a base that cannot be, an arm, or a comparison of arms that are not.
    """
    config, changes = match_arms(config, folder)
    if not config.bases:
        names = {(arm.name, ""): arm.name for arm in config.arms}
        return config.model_copy(update={"comparisons": _compared(config, names)}), changes
    models = {base.name: _model_of(config, base, folder) for base in config.bases}
    arms, names = [], {}
    for arm in config.arms:
        for base in config.bases_of(arm) or ("",):
            one = _with_base(config, arm, base)
            names[arm.name, base] = one.name
            more = _model_overrides(config, one, *models[base], folder) if base else []
            arms.append(one.model_copy(update={"set": (*more, *one.set)}))
    _check_names(arms, config)
    settled = {"arms": tuple(arms), "comparisons": _compared(config, names)}
    return config.model_copy(update=settled), changes


def _with_base(config: StudyConfig, arm: Arm, base: str) -> Arm:
    """Name an arm after its base where there are several."""
    if not base:
        return arm.model_copy(update={"bases": ()})
    if len(config.bases) == 1:
        return arm.model_copy(update={"bases": (base,)})
    label = next(b.label or b.name for b in config.bases if b.name == base)
    named = {"name": f"{base}-{arm.name}", "label": f"{label}, {arm.label or arm.name}"}
    return arm.model_copy(update={**named, "bases": (base,)})


def _check_names(arms: Sequence[Arm], config: StudyConfig) -> None:
    taken = [base.name for base in config.bases] + [arm.name for arm in arms]
    for name in taken:
        if taken.count(name) > 1:
            raise InputError(f"arms: two are called '{name}', once with its base; rename one")


def _model_of(config: StudyConfig, base: Base, folder: Path) -> tuple[Spec, str | None]:
    """Return the model of a base, and the tokenizer that it was made with."""
    if base.init is None:
        recipe = config.recipe_of(base, config.seeds[0], folder)
        return recipe.spec, recipe.data.tokenizer
    from braidlm.train.start import open_start  # takes torch, which a study does without

    try:
        start = open_start(str(folder / base.init))
    except InputError as error:
        raise InputError(f"base '{base.name}': {error}") from None
    return start.spec, start.tokenizer


def _model_overrides(
    config: StudyConfig, arm: Arm, spec: Spec, tokenizer: str | None, folder: Path
) -> list[str]:
    """Return what gives an arm's recipe the model and the tokenizer of its base."""
    path = config.path_of(arm, folder)
    own = override(read_toml(path), config.set)
    tables = own.get("data")
    lacks = isinstance(tables, dict) and "tokenizer" not in tables
    is_other = tokenizer not in (None, DataConfig.model_fields["tokenizer"].default)
    told = [f"data.tokenizer={inline(tokenizer)}"] if lacks and is_other else []
    return [*told, *overrides_to(spec, [], _loader(path, [*config.set, *told]))]


def _loader(path: Path, overrides: list[str]) -> Callable[[Sequence[str]], Spec]:
    return lambda more: Recipe.load(path, [*overrides, *more]).spec


def _compared(config: StudyConfig, names: dict[tuple[str, str], str]) -> tuple[Comparison, ...]:
    """Return every comparison with the whole names of its arms."""
    whole = set(names.values())
    bases = list(dict.fromkeys(base for _, base in names))
    found = []
    for asked in config.comparisons:
        sides = (asked.arm, asked.control)
        if all(side in whole for side in sides):
            pairs = [sides]
        else:
            pairs = [
                (a, b)
                for base in bases
                if (a := names.get((asked.arm, base))) and (b := names.get((asked.control, base)))
            ]
        if not pairs or asked.arm == asked.control:
            _refuse(asked, whole, {arm for arm, _ in names})
        found += [Comparison(arm=a, control=b) for a, b in pairs]
    return tuple(dict.fromkeys(found))


def _refuse(asked: Comparison, whole: set[str], short: set[str]) -> None:
    """Say which side of a comparison names no arm, or that no base has both."""
    known = sorted(whole | short)
    for field, side in (("arm", asked.arm), ("control", asked.control)):
        if side not in known:
            raise InputError(
                f"comparisons: {field} = '{side}' is no arm{nearest(side, known)}; "
                f"allowed: {', '.join(known)}"
            )
    if asked.arm == asked.control:
        raise InputError(f"comparisons: arm '{asked.arm}' is compared with itself")
    raise InputError(
        f"comparisons: no base has both '{asked.arm}' and '{asked.control}'; name each with its "
        f"base, such as {', '.join(sorted(whole)[:2])}"
    )


def rows(config: StudyConfig) -> dict[str, Any]:
    """Return what `study.json` says of bases and comparisons; nothing of a study without them."""
    said: dict[str, Any] = {}
    if config.bases:
        said["bases"] = [
            {
                "name": base.name,
                "label": base.label or base.name,
                "init": base.init,
                "overrides": list(base.set),
            }
            for base in config.bases
        ]
    if config.comparisons:
        said["comparisons"] = [asked.model_dump() for asked in config.comparisons]
        said["outcomes"] = list(config.outcomes)
    return said
