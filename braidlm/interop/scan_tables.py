"""What families with Mamba-1 have in common: the map of the mixer, and fields of it."""

from __future__ import annotations

from typing import Any

from braidlm.arch.mixers import Mamba1Config, MixerConfig
from braidlm.errors import InputError
from braidlm.interop.family import Rows, rows
from braidlm.interop.fields import Coded, Field, Flat, Foreign


def _side_by_side(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """The weights of the norms of dt's source, B and C, one behind the other."""
    assert isinstance(config, Mamba1Config)
    lengths = (config.dt_rank, config.d_state, config.d_state)
    return lengths, list(range(sum(lengths)))


NORMS = ("dt_layernorm.weight", "b_layernorm.weight", "c_layernorm.weight")
MAMBA1 = {
    "in_proj.weight": rows("in_proj.weight"),
    "in_proj.bias": rows("in_proj.bias"),
    "conv_weight": Rows(("conv1d.weight",), insert=(1,)),
    "conv_bias": rows("conv1d.bias"),
    "x_proj.weight": rows("x_proj.weight"),
    "norm_weight": Rows(NORMS, order=_side_by_side),
    "dt_proj.weight": rows("dt_proj.weight"),
    "dynamics.A_log": rows("A_log"),
    "dynamics.D": rows("D"),
    "dynamics.dt_bias": rows("dt_proj.bias"),
}
"""The order x, z of the input projection and dt, B, C of the next is the same on both sides."""


def inner_width(expand: str, letter: str = "S", itself: str | None = None) -> Field:
    """The inner width as a whole multiple of the model's, or the field of theirs that gives it
    itself, which decides where a file has both."""

    def read(config: Foreign) -> Flat:
        if itself is not None and config.data.get(itself) is not None:
            config.used.add(expand)
            return {f"{letter}.d_inner": config.whole(itself)}
        return {f"{letter}.d_inner": config.whole(expand) * config.whole("hidden_size")}

    def write(ours: Flat) -> dict[str, Any]:
        inner, d_model = ours.get(f"{letter}.d_inner"), ours["d_model"]
        if inner is None:
            return {}
        if inner % d_model:
            raise InputError(
                f"{letter}.d_inner = {inner}: is no whole multiple of d_model = {d_model}, "
                f"as {expand} has to be"
            )
        return {expand: inner // d_model}

    return Coded(read, write)


def step_rank(theirs: str, letter: str = "S") -> Field:
    """Channels that the step sizes are projected from; "auto" is hidden_size / 16, rounded up."""

    def read(config: Foreign) -> Flat:
        is_auto = config.get(theirs) == "auto"
        rank = -(-config.whole("hidden_size") // 16) if is_auto else config.whole(theirs)
        return {f"{letter}.dt_rank": rank}

    def write(ours: Flat) -> dict[str, Any]:
        path = f"{letter}.dt_rank"
        return {theirs: ours[path]} if path in ours else {}

    return Coded(read, write)
