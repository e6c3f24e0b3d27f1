"""Maps of the mixers by a delta rule, in the names of the models of transformers that have them.

Our input projection stacks q, k, v, gate, decay and beta (KDA: q, k, v, the ranks of gate and
decay, beta).
"""

from __future__ import annotations

from braidlm.arch.mixers import GatedDeltaNetConfig, KDAConfig, MixerConfig
from braidlm.interop.family import Rows, rows

_CONV = {"conv_weight": Rows(("conv1d.weight",), insert=(1,)), "conv_bias": rows("conv1d.bias")}
_RATES = {"dynamics.A_log": rows("A_log"), "dynamics.dt_bias": rows("dt_bias")}


def _joined(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Qwen3.5: q, k and v in one, then z, a and b."""
    assert isinstance(config, GatedDeltaNetConfig)
    return config.in_widths, list(range(sum(config.in_widths)))


def _by_key_head(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Qwen3-Next: for each key head q, k, and v and z of its value heads; then b and a of those."""
    assert isinstance(config, GatedDeltaNetConfig)
    groups, per_group = config.n_heads, config.n_v_heads // config.n_heads
    values = per_group * config.v_head_dim
    widths = (config.head_dim, config.head_dim, values, values)
    n_first = groups * sum(widths)

    def places(start: int, before: int, width: int, stride: int) -> list[int]:
        return [start + g * stride + before + i for g in range(groups) for i in range(width)]

    order: list[int] = []
    for i, width in enumerate(widths):
        order += places(0, sum(widths[:i]), width, sum(widths))
    order += places(n_first, per_group, per_group, 2 * per_group)
    order += places(n_first, 0, per_group, 2 * per_group)
    return (n_first, 2 * config.n_v_heads), order


def _convolved(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """One convolution each for queries, keys and values, one behind the other."""
    assert isinstance(config, GatedDeltaNetConfig | KDAConfig)
    return (config.k_width, config.k_width, config.width), list(range(config.conv_width))


_CONVOLUTIONS = tuple(f"{x}_conv1d.weight" for x in "qkv")
APART = {"conv_weight": Rows(_CONVOLUTIONS, order=_convolved, insert=(1,))}
"""The convolution of the files, which modules of transformers hold as one."""

OLMO_HYBRID = {
    "in_proj.weight": rows(*(f"{x}_proj.weight" for x in "qkvgab")),
    **_CONV,
    **_RATES,
    "norm_weight": rows("o_norm.weight"),
}
"""Gated DeltaNet as OLMo-Hybrid names it; the output projection is o_proj."""

QWEN3_NEXT = {
    "in_proj.weight": Rows(("in_proj_qkvz.weight", "in_proj_ba.weight"), order=_by_key_head),
    **_CONV,
    **_RATES,
    "norm_weight": rows("norm.weight"),
}
"""Gated DeltaNet as Qwen3-Next names it; the output projection is out_proj."""

QWEN3_5 = QWEN3_NEXT | {
    "in_proj.weight": Rows(
        tuple(f"in_proj_{x}.weight" for x in ("qkv", "z", "a", "b")), order=_joined
    )
}
"""Gated DeltaNet as Qwen3.5 names it; the output projection is out_proj."""

KIMI_LINEAR = {
    "in_proj.weight": rows(
        *(f"{x}_proj.weight" for x in "qkv"),
        *("g_a_proj.weight", "forget_gate.f_a_proj.weight", "b_proj.weight"),
    ),
    **_CONV,
    "gate_proj.weight": rows("g_b_proj.weight"),
    "gate_proj.bias": rows("g_b_proj.bias"),
    "decay_proj.weight": rows("forget_gate.f_b_proj.weight"),
    "dynamics.A_log": Rows(("forget_gate.A_log",), insert=(1,), lead=(1, 1)),
    "dynamics.dt_bias": rows("forget_gate.dt_bias"),
    "norm_weight": rows("o_norm.weight"),
}
"""KDA as Kimi Linear names it; the output projection is o_proj. Its gate has no bias."""
