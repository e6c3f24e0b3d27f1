"""What many families have in common: maps of mixers, and groups of fields."""

from __future__ import annotations

import math
from typing import Any

from braidlm.errors import InputError
from braidlm.interop.family import Rows, rows
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Ours, Same

ATTENTION = {
    "in_proj.weight": rows("q_proj.weight", "k_proj.weight", "v_proj.weight"),
    "in_proj.bias": rows("q_proj.bias", "k_proj.bias", "v_proj.bias"),
    "q_norm.weight": rows("q_norm.weight"),
    "k_norm.weight": rows("k_norm.weight"),
}
GATED_MLP = {
    "in_proj.weight": rows("gate_proj.weight", "up_proj.weight"),
    "in_proj.bias": rows("gate_proj.bias", "up_proj.bias"),
}
MAMBA2 = {
    "in_proj.weight": rows("in_proj.weight"),
    "in_proj.bias": rows("in_proj.bias"),
    "conv_weight": Rows(("conv1d.weight",), insert=(1,)),
    "conv_bias": rows("conv1d.bias"),
    "dynamics.A_log": rows("A_log"),
    "dynamics.D": rows("D"),
    "dynamics.dt_bias": rows("dt_bias"),
    "norm_weight": rows("norm.weight"),
}
"""The order z, x, B, C, dt of the input projection is the same on both sides."""

ENDS: tuple[Field, ...] = (
    Same("vocab_size", "vocab_size"),
    Same("hidden_size", "d_model"),
    Same("tie_word_embeddings", "tie_embeddings"),
)
"""Fields of nearly every family."""
UNTIED: tuple[Field, ...] = (
    *ENDS[:2],
    Must("tie_word_embeddings", False),
    Ours("tie_embeddings", False),
)
"""Fields of a family whose class in transformers has a head of its own, tied or not."""


def heads(letter: str = "*") -> tuple[Field, ...]:
    """Numbers and width of an attention's heads."""
    return (
        Same("num_attention_heads", f"{letter}.n_heads"),
        Same("num_key_value_heads", f"{letter}.n_kv_heads"),
    )


def head_dim(config: Foreign) -> int:
    """Return the width of a head where the file does not give it."""
    return config.whole("hidden_size") // config.whole("num_attention_heads")


def square_heads(letter: str = "*") -> Field:
    """Heads that fill the model's width exactly, in a configuration that cannot say otherwise."""

    def read(config: Foreign) -> Flat:
        return {f"{letter}.head_dim": head_dim(config)}

    def write(ours: Flat) -> dict[str, Any]:
        return {}

    return Coded(read, write)


STEP_INIT = frozenset({"time_step_min", "time_step_max", "time_step_floor"})
"""Of the initial step sizes alone, in families that do not bound the step by them."""
INFINITY = {"__float__": "Infinity"}
"""How newer files write what JSON has no number for."""


def step_limit(letter: str = "M") -> Field:
    """Bounds of the step size at every token, as a pair."""

    def read(config: Foreign) -> Flat:
        found = config.get("time_step_limit")
        if not isinstance(found, list | tuple) or len(found) != 2:
            raise config.error("time_step_limit", found, "[lowest, highest]")
        low, high = (math.inf if x == INFINITY else x for x in found)
        high = None if high == math.inf else high
        return {f"{letter}.dt_limit_min": low, f"{letter}.dt_limit_max": high}

    def write(ours: Flat) -> dict[str, Any]:
        if f"{letter}.dt_limit_min" not in ours:
            return {}
        high = ours[f"{letter}.dt_limit_max"]
        limits = [ours[f"{letter}.dt_limit_min"], INFINITY if high is None else high]
        return {"time_step_limit": limits}

    return Coded(read, write)


def biases(theirs: str, letter: str) -> tuple[Field, ...]:
    """One field for the biases of a mixer's input and output projections."""
    return Same(theirs, f"{letter}.in_bias"), Same(theirs, f"{letter}.out_bias")


def expansion(theirs: str, letter: str = "M") -> Field:
    """The inner width as a whole multiple of the model's; it follows from the heads."""

    def write(ours: Flat) -> dict[str, Any]:
        if f"{letter}.n_heads" not in ours:
            return {}
        inner, d_model = ours[f"{letter}.n_heads"] * ours[f"{letter}.head_dim"], ours["d_model"]
        if inner % d_model:
            raise InputError(
                f"{letter}: the inner width {inner} is no whole multiple of d_model = {d_model}, "
                f"as {theirs} has to be"
            )
        return {theirs: inner // d_model}

    def read(config: Foreign) -> Flat:
        config.used.add(theirs)
        return {}

    return Coded(read, write)


def bamba_mixer(letter: str = "M") -> tuple[Field, ...]:
    """Mamba-2 as Bamba names it, and those that followed it."""
    return (
        Same("mamba_n_heads", f"{letter}.n_heads"),
        Coded(_bamba_head_dim(letter), lambda o: _given("mamba_d_head", o, f"{letter}.head_dim")),
        Same("mamba_d_state", f"{letter}.d_state"),
        Same("mamba_n_groups", f"{letter}.n_groups"),
        Same("mamba_d_conv", f"{letter}.d_conv"),
        Same("mamba_conv_bias", f"{letter}.conv_bias"),
        Same("mamba_chunk_size", f"{letter}.chunk_size"),
        Same("mamba_proj_bias", f"{letter}.in_bias"),
        step_limit(letter),
    )


BAMBA_DEFAULTS: dict[str, Any] = {
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": [0.0, math.inf],
}


def _bamba_head_dim(letter: str) -> Any:
    def read(config: Foreign) -> Flat:
        found = config.get("mamba_d_head")
        if found == "auto":
            inner = config.data.get("mamba_d_ssm")
            inner = inner or config.whole("mamba_expand") * config.whole("hidden_size")
            found = inner // config.whole("mamba_n_heads")
        return {f"{letter}.head_dim": found}

    return read


def _given(theirs: str, ours: Flat, path: str) -> dict[str, Any]:
    return {theirs: ours[path]} if path in ours else {}
