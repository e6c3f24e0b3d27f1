"""Which family a folder is of, and which family can express a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from braidlm.arch import Spec
from braidlm.arch.config import nearest
from braidlm.errors import InputError
from braidlm.interop.families import FAMILIES, READ_ONLY
from braidlm.interop.family import Family
from braidlm.interop.layout import UnfitError

OWN = "braid-hf"
"""The format that holds any declaration."""


def of_config(config: Mapping[str, Any], where: str) -> Family:
    """Return the family that a configuration names.

    Raises:
        InputError: none that we know, or a model of it that is no language model.
    """
    families = FAMILIES | READ_ONLY
    known = ", ".join(families)
    name = config.get("model_type")
    if name is None and {"model", "train"} <= config.keys():
        raise InputError(
            f"{where}: is of a run of this program, which every command takes as it is"
        )
    if name not in families:
        code = (
            " (it comes with code of its own, which is never run)" if "auto_map" in config else ""
        )
        raise InputError(f"{where}: model_type = {name!r}{code}; known families: {known}")
    family = families[str(name)]
    classes = config.get("architectures")
    if classes is not None and classes != [family.architecture]:
        raise InputError(
            f"{where}: architectures = {classes!r:.80}; allowed: {[family.architecture]!r}"
        )
    return family


def for_spec(spec: Spec, name: str | None = None) -> tuple[Family, dict[str, Any]]:
    """Return a family that expresses this model, and the configuration that says so.

    Args:
        spec: the model.
        name: the family to take; None: the first that can.

    Raises:
        InputError: an unknown family, or none that can, naming the sublayer and its reason.
    """
    if name is not None and name not in FAMILIES:
        hint = nearest(name, list(FAMILIES))
        raise InputError(f"family = '{name}'{hint}: known families: {', '.join(FAMILIES)}")
    refusals: list[tuple[tuple[int, bool], str]] = []
    for family in FAMILIES.values() if name is None else [FAMILIES[name]]:
        try:
            return family, family.config(spec)
        except UnfitError as error:
            refusals.append((error.nearness, f"{family.model_type}: {error}"))
    reason = max(refusals, key=lambda refusal: refusal[0])[1]
    what = "no family expresses this model; the nearest is " if name is None else ""
    raise InputError(f"{what}{reason}; '--format {OWN}' holds any declaration")
