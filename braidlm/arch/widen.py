"""One model at another width: every inner width grows with d_model, depth and states stay.

What muP calls the same architecture at another width; see `docs/mup.md`.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from braidlm.arch.knobs import Data, places, with_setting
from braidlm.arch.spec import Spec
from braidlm.arch.toml import model_table
from braidlm.errors import InputError

_WIDTHS = ("d_ff", "d_inner", "d_shared", "d_latent")
_HEADS = ("n_heads", "n_kv_heads", "n_v_heads")
_CHANNELS = ("head_dim", "v_head_dim")
_ATTENTIONS = ("attention", "bmojo_f")
_RANKS = ("dt_rank", "kv_lora_rank", "q_lora_rank")
"""Widths between two projections; they need not divide anything, so they are rounded up."""


def widen(spec: Spec, d_model: int) -> Spec:
    """Return the model with `d_model`, and every inner width times the same ratio.

    Heads are multiplied and their channels stay, where that leaves whole numbers; otherwise a
    mixer's channels are, and its attention scale falls as 1 / head_dim (muP), not as its root.

    Raises:
        InputError: a width that would not be whole.
    """
    if d_model < 1:
        raise InputError(f"d_model = {d_model}: must be at least 1")
    data = model_table(spec)
    ratio = Fraction(d_model, spec.d_model)
    values: dict[str, int] = {"d_model": d_model}
    for place in places(data):
        values |= _scaled(place.path, place.fields, ratio)
    wide = with_setting(data, tuple(values.items()))
    for place in places(data):
        if f"{place.path}.head_dim" in values and place.fields.get("kind") in _ATTENTIONS:
            own = place.fields.get("softmax_scale", place.fields["head_dim"] ** -0.5)
            wide["mixers"][place.path.removeprefix("mixers.")]["softmax_scale"] = own / float(ratio)
    return Spec.of(wide)


def _scaled(path: str, fields: Data, ratio: Fraction) -> dict[str, int]:
    """Return the new sizes of one mixer or cross attention."""
    names = [n for n in _WIDTHS if n in fields]
    heads = [n for n in _HEADS if n in fields]
    if heads:
        can_multiply = all((fields[n] * ratio).denominator == 1 for n in heads)
        grouped = fields["n_heads"] * ratio % fields.get("n_groups", 1) == 0
        names += heads if can_multiply and grouped else [n for n in _CHANNELS if n in fields]
    out = {}
    for name in names:
        new = fields[name] * ratio
        if new.denominator != 1:
            raise InputError(
                f"{path}.{name} = {fields[name]}: times {ratio} is no whole number; choose a "
                "width that divides it"
            )
        out[f"{path}.{name}"] = int(new)
    return out | {f"{path}.{n}": ceil(fields[n] * ratio) for n in _RANKS if n in fields}
