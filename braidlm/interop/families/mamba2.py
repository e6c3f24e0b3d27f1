"""Mamba-2: one state-space mixer per layer."""

import math

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Must, Past, Same
from braidlm.interop.layout import Uniform
from braidlm.interop.tables import ENDS, STEP_INIT, biases, expansion, step_limit
from braidlm.interop.tables import MAMBA2 as NAMES

MAMBA2 = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    ends=Ends("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers"),
    letters={"M": Letter("mamba2", NAMES)},
    layers={"layer": (Place("M", "norm", ("mixer",)),)},
    layout=Uniform(),
    fields=(
        *ENDS,
        Same("layer_norm_epsilon", "norm_eps"),
        Same("num_heads", "M.n_heads"),
        Same("head_dim", "M.head_dim"),
        expansion("expand"),
        Same("state_size", "M.d_state"),
        Same("n_groups", "M.n_groups"),
        Same("conv_kernel", "M.d_conv"),
        Same("use_conv_bias", "M.conv_bias"),
        Same("chunk_size", "M.chunk_size"),
        *biases("use_bias", "M"),
        Must("hidden_act", "silu"),
        Past("rms_norm", True),
        step_limit(),
    ),
    defaults={
        "tie_word_embeddings": False,
        "layer_norm_epsilon": 1e-5,
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "use_bias": False,
        "chunk_size": 256,
        "hidden_act": "silu",
        "time_step_limit": [0.0, math.inf],
    },
    harmless=STEP_INIT
    | {
        *("time_step_rank", "time_step_scale", "time_step_init_scheme"),
        "intermediate_size",  # follows from the heads
        "norm_before_gate",  # their class gates first, whatever this is
    },
)
