"""Rotary positions as configurations tell them: the present form and the older ones."""

from __future__ import annotations

from typing import Any

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
}
"""Kinds of rotary positions, and their names and ours of what each takes."""


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
            names = SCALINGS[kind].items()
            found["rope_scaling"] = {"kind": kind} | {b: given.get(a) for a, b in names}
        return {f"{letter}.{k}": v for k, v in found.items()}

    def write(ours: Flat) -> dict[str, Any]:
        if or_none and ours.get(f"{letter}.position") == "none":
            return {"rope_parameters": {"rope_type": "default", "rope_theta": None}}
        if ours.get(f"{letter}.position") != "rope":
            return {}
        scaling = ours[f"{letter}.rope_scaling"] or {"kind": "default"}
        found = {"rope_type": scaling["kind"], "rope_theta": ours[f"{letter}.rope_theta"]}
        found |= {a: scaling[b] for a, b in SCALINGS[scaling["kind"]].items()}
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


def _given(config: Foreign) -> dict[str, Any]:
    """Return the table, whose keys must all be known for its kind."""
    config.used |= {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
    given = config.data.get("rope_parameters") or config.data.get("rope_scaling") or {}
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
