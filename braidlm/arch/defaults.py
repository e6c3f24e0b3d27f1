"""The one table of defaults: what a letter means and what a short declaration leaves out.

`fill` turns a short declaration of a mixer into a complete one; nothing else in the package
guesses a size. `braid describe --defaults` prints the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from braidlm.arch.wiring import WIRING
from braidlm.errors import InputError

LETTERS: dict[str, str] = {
    "M": "mamba2",
    "S": "mamba1",
    "G": "gated_deltanet",
    "*": "attention",
    "W": "attention",
    "+": "mla",
    "-": "mlp",
    "E": "moe",
}
"""Letters that need no declaration, and the kind of mixer each stands for."""

LETTER_FIELDS: dict[str, dict[str, Any]] = {"W": {"window": 512}}
"""What a letter means beside its kind, where its declaration leaves it out."""

_BALANCE_DEFAULTS: dict[str, dict[str, Any]] = {
    "aux_loss": {"aux_coef": 0.01, "aux_over": "batch"},
    "bias": {"bias_rate": 0.001},
}

REFUSED: dict[str, str] = {
    "D": "Megatron's sparse attention, which this package does not have",
}
"""Letters of other systems that must not be taken for something else."""

D_MODEL = 512
VOCAB_SIZE = 32_000

TABLE: tuple[tuple[str, str, str], ...] = (
    ("spec", "d_model", "512"),
    ("spec", "vocab_size", "32000"),
    ("spec", "init_std", "(mup_base_width, if that is given, else d_model) ** -0.5"),
    ("attention", "head_dim", "d_model / n_heads if that is given, else min(64, d_model)"),
    ("attention", "width", "d_model (n_heads * head_dim)"),
    ("attention", "n_heads", "width / head_dim"),
    ("attention", "n_kv_heads", "n_heads"),
    ("attention", "v_head_dim", "head_dim"),
    ("attention", "window", "512 for letter W, else none"),
    ("attention", "n_sinks", "n_meta_tokens under a window, else 0"),
    ("attention with kv_from", "n_heads", "that of the letter it names"),
    ("attention with kv_from", "n_kv_heads, head_dim, v_head_dim", "the same"),
    ("attention with kv_from", "window, n_sinks, position", "the same"),
    ("attention with kv_from", "rope_theta, rope_fraction, rope_scaling", "the same"),
    ("bmojo_f", "head_dim, width, n_heads, n_kv_heads", "as attention"),
    ("bmojo_f", "ssm", "kind mamba2, its sizes by the rows below"),
    ("mla", "v_head_dim", "d_model / n_heads if that is given, else min(64, d_model)"),
    ("mla", "n_heads", "d_model / v_head_dim"),
    ("mla", "kv_lora_rank", "4 v_head_dim"),
    ("mla", "qk_nope_head_dim", "v_head_dim"),
    ("mla", "qk_rope_head_dim", "v_head_dim / 2, down to an even number"),
    ("mlp", "d_ff", "8/3 d_model, up to a multiple of 64, if gated; else 4 d_model"),
    ("moe", "d_ff", "the MLP's / top_k, up to a multiple of 8"),
    ("moe", "aux_coef, aux_over", "0.01, batch, with balance = aux_loss"),
    ("moe", "bias_rate", "0.001 with balance = bias"),
    ("mamba2", "expand", "2 (inner width / d_model)"),
    ("mamba2", "width", "expand * d_model (the inner width)"),
    ("mamba2", "head_dim", "inner width / n_heads if that is given, else min(64, inner width)"),
    ("mamba2", "n_heads", "expand * d_model / head_dim"),
    ("mamba1", "expand", "2 (inner width / d_model)"),
    ("mamba1", "width", "expand * d_model (the inner width, stored as d_inner)"),
    ("mamba1", "d_inner", "expand * d_model"),
    ("mamba1", "dt_rank", "d_model / 16, rounded up"),
    ("gated_deltanet", "expand, expand_v", "0.75 (keys / d_model) and 2 (v_head_dim / head_dim)"),
    ("gated_deltanet", "head_dim", "largest divisor of expand * d_model up to 96, or as mamba2"),
    ("kda", "expand, expand_v", "1 and 1"),
    ("kda", "head_dim", "largest divisor of expand * d_model up to 128, or as mamba2"),
    ("gated_deltanet, kda", "n_heads", "expand * d_model / head_dim"),
    ("gated_deltanet, kda", "n_v_heads, v_head_dim", "n_heads and expand_v * head_dim"),
    ("gated_deltanet, kda", "width", "expand * expand_v * d_model (n_v_heads * v_head_dim)"),
    ("kda", "decay_rank, gate_rank", "v_head_dim"),
    ("cross", "n_heads, n_kv_heads, head_dim", "those of the attention branch"),
    ("cross", "query", "attention, in a cross attention"),
    ("cross", "n_sinks", "n_meta_tokens under a window, else 0"),
)
"""Rows (what, field, default) of sizes that depend on others; the schema has the fixed ones."""

Fields = dict[str, Any]

_EITHER = (
    *(("expand", "width"), ("expand_v", "v_head_dim")),
    *(("width", "v_head_dim"), ("width", "n_v_heads")),
)
"""Pairs of which a delta rule's declaration holds at most one."""


def of_letter(letter: str, fields: Fields) -> Fields:
    """Add what the letter itself says: letter W has a window, whatever else is declared of it."""
    if fields.get("kind") != LETTERS.get(letter):
        return fields
    missing = {k: v for k, v in LETTER_FIELDS.get(letter, {}).items() if fields.get(k) is None}
    return {**fields, **missing}


def see_meta_tokens(fields: Fields, n_meta_tokens: Any) -> Fields:
    """Let a window see the meta tokens, unless its declaration says how many sinks it has."""
    is_count = isinstance(n_meta_tokens, int) and n_meta_tokens > 0
    if not is_count or fields.get("window") is None or fields.get("n_sinks") is not None:
        return fields
    return {**fields, "n_sinks": int(n_meta_tokens)}


def fill(fields: Fields, d_model: int, where: str) -> Fields:
    """Complete one mixer's declaration.

    Args:
        fields: what was declared, with `kind`.
        d_model: width of the residual stream.
        where: path of the declaration, for messages.

    Returns:
        A new dict in which every size is given.

    Raises:
        InputError: if a size is not a whole number or was given twice.
    """
    filler = _FILLERS.get(str(fields.get("kind", "")))
    return dict(fields) if filler is None else filler(dict(fields), d_model, where)


def fill_cross(cross: Fields, attention: Fields, combine: str) -> Fields:
    """Complete a fusion's own attention with the shape of the attention branch; that one asks."""
    if attention.get("kind") == "mla":
        heads = attention["n_heads"]
        attention = {"n_heads": heads, "n_kv_heads": heads, "head_dim": attention["v_head_dim"]}
    shape = {k: attention[k] for k in ("n_heads", "n_kv_heads", "head_dim") if k in attention}
    query = {"query": "attention"} if combine == "cross_attention" else {}
    return {**query, **shape, **{k: v for k, v in cross.items() if v is not None}}


def _attention(fields: Fields, d_model: int, where: str) -> Fields:
    width = _width(fields, where)
    _heads(fields, *((d_model, "d_model") if width is None else (width, "width")), where)
    fields.setdefault("n_kv_heads", fields["n_heads"])
    fields.setdefault("v_head_dim", fields["head_dim"])
    return fields


def _bmojo_f(fields: Fields, d_model: int, where: str) -> Fields:
    """Heads as of attention, and the recurrence inside, completed as a letter of its own."""
    width = _width(fields, where)
    _heads(fields, *((d_model, "d_model") if width is None else (width, "width")), where)
    fields.setdefault("n_kv_heads", fields["n_heads"])
    ssm = {} if fields.get("ssm") is None else fields["ssm"]
    if isinstance(ssm, dict):
        wired = next((name for name in WIRING if name in ssm), None)
        if wired is not None:
            raise InputError(f"{where}.ssm.{wired}: belongs to the letter: write it beside ssm")
        fields["ssm"] = fill({"kind": "mamba2", **ssm}, d_model, f"{where}.ssm")
    return fields


def _mla(fields: Fields, d_model: int, where: str) -> Fields:
    """Heads that together are as wide as the model; latents in the proportions of DeepSeek-V2."""
    _heads(fields, d_model, "d_model", where, "v_head_dim")
    width = fields["v_head_dim"]
    if isinstance(width, int):
        fields.setdefault("kv_lora_rank", 4 * width)
        fields.setdefault("qk_nope_head_dim", width)
        fields.setdefault("qk_rope_head_dim", width // 4 * 2)
    return fields


def _mlp(fields: Fields, d_model: int, where: str) -> Fields:
    fields.setdefault("d_ff", _mlp_width(fields, d_model))
    return fields


def _mlp_width(fields: Fields, d_model: int) -> int:
    return -(-8 * d_model // (3 * 64)) * 64 if fields.get("gated", True) else 4 * d_model


def _moe(fields: Fields, d_model: int, where: str) -> Fields:
    """Experts that together are as wide as the MLP, and the numbers of what evens their load."""
    top_k = fields.get("top_k", 2)
    parts = top_k if isinstance(top_k, int) and top_k > 0 else 1
    fields.setdefault("d_ff", -(-_mlp_width(fields, d_model) // (8 * parts)) * 8)
    missing = _BALANCE_DEFAULTS.get(str(fields.get("balance", "aux_loss")), {})
    return fields | {k: v for k, v in missing.items() if fields.get(k) is None}


def _mamba2(fields: Fields, d_model: int, where: str) -> Fields:
    if {"expand", "width"} <= set(fields):
        raise InputError(f"{where}: give width or expand, not both")
    if (width := _width(fields, where)) is not None:
        _heads(fields, width, "width", where)
        return fields
    if {"expand", "n_heads", "head_dim"} <= set(fields):
        raise InputError(f"{where}: give two of expand, n_heads and head_dim, not all three")
    _heads(fields, _factor(fields, "expand", 2, where) * d_model, "expand * d_model", where)
    return fields


def _mamba1(fields: Fields, d_model: int, where: str) -> Fields:
    fields.setdefault("dt_rank", -(-d_model // 16))
    given = [name for name in ("expand", "width", "d_inner") if name in fields]
    if len(given) > 1:
        raise InputError(f"{where}: give one of expand, width and d_inner, not {len(given)}")
    if (width := _width(fields, where)) is not None:
        return {**fields, "d_inner": width}
    if "d_inner" not in fields:
        inner = _factor(fields, "expand", 2, where) * d_model
        fields["d_inner"] = _whole(inner, 1, f"{where}.expand", "expand * d_model", "d_inner")
    return fields


def _delta(fields: Fields, d_model: int, where: str) -> Fields:
    """The two mixers by the delta rule: keys of expand * d_model, values expand_v times as wide."""
    expand, expand_v, largest = (1, 1, 128) if fields["kind"] == "kda" else (0.75, 2, 96)
    for one, other in _EITHER:
        if {one, other} <= set(fields):
            raise InputError(f"{where}: give {one} or {other}, not both")
    ratio = _factor(fields, "expand_v", expand_v, where)
    if (width := _width(fields, where)) is not None:
        inner, name = width / ratio, "width / expand_v"
    elif {"expand", "n_heads", "head_dim"} <= set(fields):
        raise InputError(f"{where}: give two of expand, n_heads and head_dim, not all three")
    else:
        inner, name = _factor(fields, "expand", expand, where) * d_model, "expand * d_model"
    if not {"n_heads", "head_dim"} & set(fields):
        if inner < 1 or inner % 1 != 0:  # of infinity this is not a number
            raise InputError(f"{where}: {name} = {inner:g}: must be a whole number of at least 1")
        fields["head_dim"] = next(n for n in range(largest, 0, -1) if inner % n == 0)
    _heads(fields, inner, name, where)
    fields.setdefault("n_v_heads", fields["n_heads"])
    if "v_head_dim" not in fields:
        value = ratio * fields["head_dim"]
        if value % 1:
            raise InputError(
                f"{where}.expand_v = {ratio:g}: times head_dim = {fields['head_dim']} must be a "
                "whole number, or give v_head_dim"
            )
        fields["v_head_dim"] = int(value)
    ranks = ("decay_rank", "gate_rank") if fields["kind"] == "kda" else ()
    return {**dict.fromkeys(ranks, fields["v_head_dim"]), **fields}


def _factor(fields: Fields, name: str, default: float, where: str) -> float:
    """Take a short form that is a ratio of widths."""
    factor = fields.pop(name, default)
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not is_number or not 0 < factor < math.inf:
        raise InputError(f"{where}.{name} = {factor!r}: must be a finite number greater than 0")
    return factor


def _width(fields: Fields, where: str) -> int | None:
    """Take the short form `width`: the channels of all heads together."""
    if {"width", "n_heads", "head_dim"} <= set(fields):
        raise InputError(f"{where}: give two of width, n_heads and head_dim, not all three")
    width = fields.pop("width", None)
    if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
        raise InputError(f"{where}.width = {width!r}: must be a whole number of at least 1")
    return width


def _heads(fields: Fields, inner: float, name: str, where: str, channels: str = "head_dim") -> None:
    """Give `n_heads` or its channels, whichever is missing, so that together they make `inner`."""
    if "n_heads" in fields and channels not in fields:
        fields[channels] = _whole(inner, fields["n_heads"], f"{where}.n_heads", name, channels)
        return
    head_dim = fields.setdefault(channels, min(64, int(inner)))
    if "n_heads" not in fields:
        fields["n_heads"] = _whole(inner, head_dim, f"{where}.{channels}", name, "n_heads")


def _whole(total: float, part: Any, field: str, name: str, other: str) -> int:
    """Divide, refusing a remainder."""
    if not isinstance(part, int) or isinstance(part, bool) or part < 1:
        raise InputError(f"{field} = {part!r}: must be a whole number of at least 1")
    if total % part:
        raise InputError(f"{field} = {part}: must divide {name} = {total:g}, or give {other} too")
    return int(total // part)


_FILLERS: dict[str, Callable[[Fields, int, str], Fields]] = {
    "attention": _attention,
    "bmojo_f": _bmojo_f,
    "mla": _mla,
    "mlp": _mlp,
    "mamba1": _mamba1,
    "moe": _moe,
    "mamba2": _mamba2,
    "gated_deltanet": _delta,
    "kda": _delta,
}
