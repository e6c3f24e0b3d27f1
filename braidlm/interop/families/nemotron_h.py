"""Nemotron-H: one mixer per layer, Mamba-2, attention without positions, or an ungated MLP."""

from braidlm.interop.family import Ends, Family, Letter, Place, rows
from braidlm.interop.fields import Foreign, Must, Ours, Same
from braidlm.interop.layout import Listed
from braidlm.interop.tables import ATTENTION, ENDS, MAMBA2, biases, heads

UNGATED_MLP = {
    "in_proj.weight": rows("up_proj.weight"),
    "in_proj.bias": rows("up_proj.bias"),
}
SYMBOLS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
WORDS = {
    "linear_attention": "mamba",
    "mamba": "mamba",
    "full_attention": "attention",
    "attention": "attention",
    "mlp": "mlp",
}


def _from_pattern(config: Foreign) -> list[str]:
    """Return the words of a Megatron pattern, the older spelling."""
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or set(pattern) - set(SYMBOLS):
        raise config.error("hybrid_override_pattern", pattern, "letters M, * and -")
    return [SYMBOLS[symbol] for symbol in pattern]


NEMOTRON_H = Family(
    model_type="nemotron_h",
    architecture="NemotronHForCausalLM",
    ends=Ends("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers"),
    letters={
        "M": Letter("mamba2", MAMBA2),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", UNGATED_MLP, out="down_proj"),
    },
    layers={
        "mamba": (Place("M", "norm", ("mixer",)),),
        "attention": (Place("*", "norm", ("mixer",)),),
        "mlp": (Place("-", "norm", ("mixer",)),),
    },
    layout=Listed("layers_block_type", WORDS, also=("layer_types",)),
    fields=(
        *ENDS,
        Same("layer_norm_epsilon", "norm_eps"),
        Same("mamba_num_heads", "M.n_heads"),
        Same("mamba_head_dim", "M.head_dim"),
        Same("ssm_state_size", "M.d_state"),
        Same("n_groups", "M.n_groups"),
        Same("conv_kernel", "M.d_conv"),
        Same("use_conv_bias", "M.conv_bias"),
        Same("chunk_size", "M.chunk_size"),
        *biases("use_bias", "M"),
        Same("time_step_min", "M.dt_limit_min"),  # a bound at every token too
        Must("mamba_hidden_act", "silu"),
        *heads(),
        Same("head_dim", "*.head_dim"),
        Ours("*.position", "none"),
        Must("attention_bias", False),
        Must("sliding_window", None),
        Same("intermediate_size", "-.d_ff"),
        Must("mlp_hidden_act", "relu2"),
        Ours("-.activation", "relu2"),
        Ours("-.gated", False),
        *biases("mlp_bias", "-"),
        Must("num_nextn_predict_layers", 0),
    ),
    defaults={
        "layers_block_type": _from_pattern,
        "tie_word_embeddings": False,
        "layer_norm_epsilon": 1e-5,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "chunk_size": 128,
        "time_step_min": 0.001,
        "use_bias": False,
        "mamba_hidden_act": "silu",
        "num_key_value_heads": 8,
        "head_dim": lambda config: config.data.get("attention_head_dim", 128),
        "attention_bias": False,
        "sliding_window": None,
        "mlp_hidden_act": "relu2",
        "mlp_bias": False,
        "num_nextn_predict_layers": 0,
    },
    harmless=frozenset(
        {
            *("time_step_limit", "time_step_max", "time_step_floor", "time_step_rank", "expand"),
            "mamba_proj_bias",
            *("hybrid_override_pattern", "attention_head_dim", "num_query_groups", "rms_norm_eps"),
            *("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_latent_size"),
            *("moe_shared_expert_intermediate_size", "moe_shared_expert_overlap", "n_group"),
            *("num_experts_per_tok", "routed_scaling_factor", "topk_group", "norm_topk_prob"),
            *("mtp_layers_block_type", "mtp_hybrid_override_pattern"),
        }
    ),
    skipped=(r"mtp\..*",),
)
"""Fields of experts decide nothing where no layer has any."""
