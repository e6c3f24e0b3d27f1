"""Rotary positions as configurations tell them: the present form and the older ones."""

from __future__ import annotations

from typing import Any

from braidlm.arch.mixers.rope_scaling import OF_YARN, RopeScaling
from braidlm.interop.fields import Coded, Field, Flat, Foreign

SCALINGS = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_length",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        **{name: name for name in OF_YARN},
    },
}
"""Kinds of rotary positions, and their names and ours of what each takes."""
USUAL = {name: RopeScaling.model_fields[name].default for name in OF_YARN}
"""What is the same on both sides where a file leaves it out."""
EMPTY = dict.fromkeys(OF_YARN, (None, 0)) | {"attention_factor": (None,), "truncate": ()}
"""What transformers takes for nothing said; a null `truncate` is no, a zero factor a factor."""


def rope(
    letter: str = "*",
    fraction: float | None = None,
    theta: float = 10_000.0,
    *,
    or_none: bool = False,
) -> Field:
    """Rotary positions, in the present form (`rope_parameters`) or an older one.

    Args:
        letter: of the attention.
        fraction: share of rotated channels where the file does not give it; None: their class
            rotates all, whatever the file gives.
        theta: base where the file does not give it.
        or_none: whether a base that is given as null stands for no positions.
    """

    def read(config: Foreign) -> Flat:
        given = _given(config)
        if or_none and given.get("rope_theta", config.data.get("rope_theta", theta)) is None:
            return {f"{letter}.position": "none"}
        found = {
            "rope_theta": given.get("rope_theta") or config.data.get("rope_theta") or theta,
            "rope_fraction": _fraction(config, given, fraction),
        }
        kind = given.get("rope_type", given.get("type", "default"))
        if kind != "default":
            found["rope_scaling"] = {"kind": kind} | _stretching(config, given, kind)
        return {f"{letter}.{k}": v for k, v in found.items()}

    def write(ours: Flat) -> dict[str, Any]:
        if or_none and ours.get(f"{letter}.position") == "none":
            return {"rope_parameters": {"rope_type": "default", "rope_theta": None}}
        if ours.get(f"{letter}.position") != "rope":
            return {}
        scaling = ours[f"{letter}.rope_scaling"] or {"kind": "default"}
        found = {"rope_type": scaling["kind"], "rope_theta": ours[f"{letter}.rope_theta"]}
        names = SCALINGS[scaling["kind"]].items()
        found |= {a: scaling[b] for a, b in names if scaling[b] != USUAL.get(b)}
        if fraction is not None:
            found["partial_rotary_factor"] = ours[f"{letter}.rope_fraction"]
        return {"rope_parameters": found}

    return Coded(read, write)


def _fraction(config: Foreign, given: Flat, usual: float | None) -> float:
    """Return the share of rotated channels; transformers passes over it where `usual` is None."""
    found = given.get("partial_rotary_factor") or config.data.get("partial_rotary_factor")
    if usual is None and found not in (None, 1.0):
        raise config.error("partial_rotary_factor", found, "1.0, all channels of a head")
    return found or usual or 1.0


def _stretching(config: Foreign, given: Flat, kind: str) -> Flat:
    """Return our fields of a scaling, as transformers takes what is left out or null."""
    names = SCALINGS[kind].items()
    found = {b: given[a] for a, b in names if a in given and given[a] not in EMPTY.get(b, ())}
    if "original_length" in SCALINGS[kind].values() and "original_length" not in found:
        found["original_length"] = config.get("max_position_embeddings")
    scales = {"mscale", "mscale_all_dim"}
    if "attention_factor" in found or not scales <= set(found):  # they decide nothing then
        found = {name: value for name, value in found.items() if name not in scales}
    return {"factor": None} | found


def _given(config: Foreign) -> dict[str, Any]:
    """Return the table, whose keys must all be known for its kind."""
    config.used |= {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
    new, old = (config.data.get(key) or {} for key in ("rope_parameters", "rope_scaling"))
    if new and old and new != old:
        raise config.error("rope_scaling", old, "what rope_parameters, given too, says")
    given = new or old
    if not isinstance(given, dict):
        raise config.error("rope_parameters", given, "a table")
    kind = given.get("rope_type", given.get("type", "default"))
    known = {"rope_theta", "partial_rotary_factor", "rope_type", "type"}
    extra = sorted(set(given) - known - set(SCALINGS.get(str(kind), {})))
    if kind not in SCALINGS:
        raise config.error("rope_parameters.rope_type", kind, ", ".join(SCALINGS))
    if extra and given[extra[0]] is not None:
        raise config.error(f"rope_parameters.{extra[0]}", given[extra[0]])
    return given
