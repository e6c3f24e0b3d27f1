"""Zamba: Mamba-1 in groups of channels; before some, one shared block of attention and MLP."""

from __future__ import annotations

from braidlm.arch.mixers import Mamba1Config, MixerConfig
from braidlm.interop.family import Ends, Family, Letter, Rows, rows
from braidlm.interop.fields import Foreign, Ours, Same
from braidlm.interop.layout import n_layers
from braidlm.interop.scan_tables import inner_width, step_rank
from braidlm.interop.shared_tables import (
    ATTENTION_WIDTH,
    HARMLESS,
    MAMBA_ACTIVATION,
    Turns,
    attention_width,
    block_fields,
    layers,
    wide_head_dim,
)
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP


def _by_turns(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Rows of x and z alternate: x_0, z_0, x_1, z_1, ..."""
    assert isinstance(config, Mamba1Config)
    n = 2 * config.d_inner
    return (n,), [*range(0, n, 2), *range(1, n, 2)]


def _n_groups(config: MixerConfig) -> int:
    """What they call heads of their Mamba are groups of channels, with an axis of their own."""
    assert isinstance(config, Mamba1Config)
    return config.n_groups


GROUPED_MAMBA1 = {
    "in_proj.weight": Rows(("in_proj.weight",), order=_by_turns),
    "in_proj.bias": Rows(("in_proj.bias",), order=_by_turns),
    "conv_weight": Rows(("conv1d.weight",), insert=(1,)),
    "conv_bias": rows("conv1d.bias"),
    "x_proj.weight": Rows(("x_proj_weight",), groups=_n_groups),
    "dt_proj.weight": Rows(("dt_proj_weight",), groups=_n_groups),
    "dynamics.A_log": Rows(("A_log",), groups=_n_groups),
    "dynamics.D": Rows(("D",), groups=_n_groups),
    "dynamics.dt_bias": Rows(("dt_proj_bias",), groups=_n_groups),
}


def _usual_layers(config: Foreign) -> list[str]:
    """Return the list of a file that gives a period, which begins behind the third layer."""
    period, offset = config.whole("attn_layer_period"), config.get("attn_layer_offset")
    more = range(n_layers(config) - 3)
    words = ["hybrid" if i % period == offset else "linear_attention" for i in more]
    return ["linear_attention", "linear_attention", "hybrid", *words]


ZAMBA = Family(
    model_type="zamba",
    architecture="ZambaForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers"),
    letters={
        "S": Letter("mamba1", GROUPED_MAMBA1),
        "A": Letter("attention", ATTENTION, out="o_proj", is_shared=True),
        "F": Letter("mlp", GATED_MLP, out="down_proj", is_shared=True),
    },
    layers=layers("S", "shared_transf", 1),
    layout=Turns(n_least=2),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *block_fields("A", "F"),
        ATTENTION_WIDTH,
        Ours("A.position", "none"),
        Same("n_mamba_heads", "S.n_groups"),
        Same("mamba_d_state", "S.d_state"),
        inner_width("mamba_expand"),
        step_rank("mamba_dt_rank"),
        Same("mamba_d_conv", "S.d_conv"),
        Same("mamba_conv_bias", "S.conv_bias"),
        Same("mamba_proj_bias", "S.in_bias"),
        Same("mamba_proj_bias", "S.out_bias"),
        MAMBA_ACTIVATION,
    ),
    defaults={
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "layers_block_type": _usual_layers,
        "attn_layer_period": 6,
        "attn_layer_offset": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "attention_hidden_size": attention_width,
        "attention_head_dim": wide_head_dim,
        "intermediate_size": 14848,
        "hidden_act": "gelu",
        "n_mamba_heads": 2,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
        "mamba_d_conv": 4,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "hidden_mamba_act": "silu",
    },
    harmless=HARMLESS | {"time_step_min", "attn_layer_period", "attn_layer_offset"},
)
