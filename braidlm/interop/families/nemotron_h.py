"""Nemotron-H: one mixer per layer, Mamba-2, attention without positions, an MLP or experts."""

from braidlm.interop.family import Ends, Family, Letter, Place, rows
from braidlm.interop.fields import Foreign, Must, Ours, Same
from braidlm.interop.layout import Listed
from braidlm.interop.moe_tables import shared_expert, single_experts
from braidlm.interop.tables import ATTENTION, MAMBA2, UNTIED, biases, heads

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
    "moe": "moe",
}
EXPERTS = {
    "router.weight": rows("gate.weight"),
    "router.bias": rows("gate.e_score_correction_bias"),
    "latent_in.weight": rows("fc1_latent_proj.weight"),
    "latent_out.weight": rows("fc2_latent_proj.weight"),
    **shared_expert("shared_experts", "up_proj"),
}


def _from_pattern(config: Foreign) -> list[str]:
    """Return the words of a Megatron pattern, the older spelling."""
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or set(pattern) - set(SYMBOLS):
        raise config.error("hybrid_override_pattern", pattern, "letters M, *, - and E")
    return [SYMBOLS[symbol] for symbol in pattern]


NEMOTRON_H = Family(
    model_type="nemotron_h",
    architecture="NemotronHForCausalLM",
    ends=Ends("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers"),
    letters={
        "M": Letter("mamba2", MAMBA2),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", UNGATED_MLP, out="down_proj"),
        "E": Letter("moe", single_experts(EXPERTS, ("up_proj",))),
    },
    layers={
        "mamba": (Place("M", "norm", ("mixer",)),),
        "attention": (Place("*", "norm", ("mixer",)),),
        "mlp": (Place("-", "norm", ("mixer",)),),
        "moe": (Place("E", "norm", ("mixer",)),),
    },
    layout=Listed("layers_block_type", WORDS, also=("layer_types",)),
    fields=(
        *UNTIED,
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
        Same("n_routed_experts", "E.n_experts"),
        Same("num_experts_per_tok", "E.top_k"),
        Same("moe_intermediate_size", "E.d_ff"),
        Same("moe_shared_expert_intermediate_size", "E.d_shared"),
        Same("moe_latent_size", "E.d_latent"),
        Same("routed_scaling_factor", "E.routed_scale"),
        Same("n_group", "E.n_groups"),
        Same("topk_group", "E.topk_group"),
        Same("norm_topk_prob", "E.norm_topk"),
        Ours("E.router", "sigmoid"),
        Ours("E.balance", "bias"),
        Ours("E.activation", "relu2"),
        Ours("E.gated", False),
        Must("num_nextn_predict_layers", 0),
    ),
    defaults={
        "layers_block_type": _from_pattern,
        "tie_word_embeddings": False,
        "num_attention_heads": 32,
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
        "intermediate_size": 21504,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 7688,
        "moe_shared_expert_intermediate_size": 7688,
        "moe_latent_size": None,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 0,
    },
    harmless=frozenset(
        {
            *("time_step_limit", "time_step_max", "time_step_floor", "time_step_rank", "expand"),
            "mamba_proj_bias",
            *("rope_theta", "partial_rotary_factor"),  # nothing is rotated
            *("hybrid_override_pattern", "attention_head_dim", "num_query_groups"),
            *("rms_norm_eps", "norm_eps"),  # `layer_norm_epsilon` decides
            *("n_shared_experts", "moe_shared_expert_overlap"),
            *("mtp_layers_block_type", "mtp_hybrid_override_pattern"),
        }
    ),
    skipped=(r"mtp\..*",),
    respelled=((r"backbone\.embedding\.(.*)", r"backbone.embeddings.\1"),),
)
