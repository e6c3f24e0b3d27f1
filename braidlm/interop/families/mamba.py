"""Mamba and FalconMamba: one Mamba-1 mixer per layer; the latter norms dt, B and C."""

from __future__ import annotations

from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Field, Must, Ours, Same
from braidlm.interop.layout import Uniform
from braidlm.interop.scan_tables import MAMBA1, inner_width, step_rank
from braidlm.interop.tables import ENDS

HARMLESS = frozenset(
    {
        *("time_step_scale", "time_step_min", "time_step_max", "time_step_floor"),
        *("time_step_init_scheme", "use_mambapy", "use_falcon_mambapy", "use_associative_scan"),
        *("layer_types", "d_model", "d_inner", "n_layer", "ssm_cfg"),
        *("fused_add_norm", "rms_norm", "pad_vocab_size_multiple"),
    }
)
"""How weights began, how they are computed, and sizes that follow from others."""
DEFAULTS: dict[str, Any] = {
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
    "state_size": 16,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_rank": "auto",
    "mixer_rms_eps": 1e-6,
}


def _family(model_type: str, architecture: str, *norms: Field) -> Family:
    return Family(
        model_type=model_type,
        architecture=architecture,
        ends=Ends("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers"),
        letters={"S": Letter("mamba1", MAMBA1)},
        layers={"layer": (Place("S", "norm", ("mixer",)),)},
        layout=Uniform(),
        fields=(
            *ENDS,
            Same("layer_norm_epsilon", "norm_eps"),
            Same("state_size", "S.d_state"),
            inner_width("expand", itself="intermediate_size"),
            step_rank("time_step_rank"),
            Same("conv_kernel", "S.d_conv"),
            Same("use_conv_bias", "S.conv_bias"),
            Same("use_bias", "S.in_bias"),
            Same("use_bias", "S.out_bias"),
            Must("hidden_act", "silu"),
            *norms,
        ),
        defaults=DEFAULTS,
        harmless=HARMLESS,
    )


MAMBA = _family("mamba", "MambaForCausalLM", Ours("S.dt_bc_norm", "none"))
FALCON_MAMBA = _family(
    "falcon_mamba",
    "FalconMambaForCausalLM",
    Ours("S.dt_bc_norm", "rms_unweighted"),
    Same("mixer_rms_eps", "S.dt_bc_norm_eps"),
)
