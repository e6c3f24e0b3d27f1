"""Falcon-H1: Mamba-2 and attention in parallel, then a gated MLP, in every layer."""

from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Coded, Flat, Foreign, Must, Ours, Past, Same
from braidlm.interop.layout import Uniform
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import (
    ATTENTION,
    BAMBA_DEFAULTS,
    ENDS,
    GATED_MLP,
    MAMBA2,
    STEP_INIT,
    bamba_mixer,
    biases,
    head_dim,
    heads,
)

MULTIPLIERS = {
    "lm_head_multiplier": "logits_multiplier",
    "embedding_multiplier": "embedding_multiplier",
    "key_multiplier": "*.key_multiplier",
    "attention_in_multiplier": "*.in_multiplier",
    "attention_out_multiplier": "*.out_multiplier",
    "ssm_in_multiplier": "M.in_multiplier",
    "ssm_out_multiplier": "M.out_multiplier",
}


def _read_mlp(config: Foreign) -> Flat:
    found = config.get("mlp_multipliers")
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise config.error("mlp_multipliers", found, "[of the gate, of the output]")
    return {"-.gate_multiplier": found[0], "-.out_multiplier": found[1]}


def _write_mlp(ours: Flat) -> dict[str, Any]:
    return {"mlp_multipliers": [ours["-.gate_multiplier"], ours["-.out_multiplier"]]}


def _read_norm(config: Foreign) -> Flat:
    first = config.get("mamba_norm_before_gate")
    if not config.get("mamba_rms_norm"):
        return {"M.norm": "none"}
    return {"M.norm": "norm_first" if first else "gate_first"}


def _write_norm(ours: Flat) -> dict[str, Any]:
    norm = ours["M.norm"]
    return {"mamba_rms_norm": norm != "none", "mamba_norm_before_gate": norm != "gate_first"}


def _inner_width(config: Foreign) -> Flat:
    config.used |= {"mamba_d_ssm", "mamba_expand"}
    return {}


FALCON_H1 = Family(
    model_type="falcon_h1",
    architecture="FalconH1ForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers"),
    letters={
        "M": Letter("mamba2", MAMBA2),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "layer": (
            Place("M*", "input_layernorm", ("mamba", "self_attn")),
            Place("-", "pre_ff_layernorm", ("feed_forward",)),
        )
    },
    layout=Uniform(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *heads(),
        Same("head_dim", "*.head_dim"),
        rope(),
        *biases("attention_bias", "*"),
        *bamba_mixer(),
        Coded(_inner_width, lambda ours: {"mamba_d_ssm": ours["M.n_heads"] * ours["M.head_dim"]}),
        Coded(_read_norm, _write_norm),
        Same("projectors_bias", "M.out_bias"),
        *(Same(theirs, ours) for theirs, ours in MULTIPLIERS.items()),
        Same("ssm_multipliers", "M.multipliers"),
        Coded(_read_mlp, _write_mlp),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
        *biases("mlp_bias", "-"),
        Past("mamba_use_mlp", True),
        Ours("fusion.combine", "add"),
        Ours("fusion.norm", "none"),
        Ours("fusion.projection", "separate"),
    ),
    defaults=BAMBA_DEFAULTS
    | dict.fromkeys(MULTIPLIERS, 1.0)
    | {
        "ssm_multipliers": [1.0] * 5,
        "mlp_multipliers": [1.0] * 2,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "head_dim": head_dim,
        "mamba_norm_before_gate": True,
        "mamba_rms_norm": False,
        "attention_bias": False,
        "projectors_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    },
    harmless=STEP_INIT
    | {
        *("layers_block_type", "layer_types"),
        "mlp_expansion_factor",  # `intermediate_size` decides
    },
)
