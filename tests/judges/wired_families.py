"""Families whose wiring is not the plain one: factors, norms after mixers, biases of some matrices.

As in `wired_maps`: `<family>_spec` and `<family>_names`.
"""

from __future__ import annotations

from typing import Any

from braidlm.arch import Spec
from tests.judges.wired_parts import (
    ATTENTION,
    MAMBA2,
    MLP,
    Names,
    attention_fields,
    declared,
    ends,
    mamba2_fields,
    mlp_fields,
    must,
    sublayer,
)

INPUT_LINEAR: Names = {"in_proj.weight": ("input_linear.weight",)}
UP: Names = {"in_proj.weight": ("up_proj.weight",), "in_proj.bias": ("up_proj.bias",)}


def granite_spec(config: Any) -> Spec:
    """GraniteMoeHybridForCausalLM without experts: M- or *- per layer."""
    must(config.num_local_experts == 0, "num_local_experts")
    letters = ["*" if kind == "full_attention" else "M" for kind in config.layer_types]
    attention = {
        **attention_fields(config),
        "softmax_scale": config.attention_multiplier,
        "position": config.position_embedding_type or "none",
    }
    return declared(
        "".join(f"{letter}-" for letter in letters),
        config,
        config.rms_norm_eps,
        {
            "M": mamba2_fields(config, norm="gate_first"),
            "*": attention,
            "-": {"d_ff": config.shared_intermediate_size, "activation": config.hidden_act},
        },
        embedding_multiplier=float(config.embedding_multiplier),
        residual_multiplier=config.residual_multiplier,
        logits_multiplier=1 / config.logits_scaling,
    )


def granite_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.norm")
    for i, kind in enumerate(config.layer_types):
        layer = f"model.layers.{i}"
        place, mixing = ("self_attn", ATTENTION) if kind == "full_attention" else ("mamba", MAMBA2)
        names |= sublayer(2 * i, f"{layer}.input_layernorm", f"{layer}.{place}", mixing)
        after = f"{layer}.post_attention_layernorm"
        names |= sublayer(2 * i + 1, after, f"{layer}.shared_mlp", INPUT_LINEAR)
    return names


_NEMOTRON = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}


def nemotron_h_spec(config: Any) -> Spec:
    """NemotronHForCausalLM without experts: each layer is one sublayer."""
    mamba = {
        "in_bias": config.use_bias,
        "out_bias": config.use_bias,
        "n_heads": config.mamba_num_heads,
        "head_dim": config.mamba_head_dim,
        "d_state": config.ssm_state_size,
        "n_groups": config.n_groups,
        "d_conv": config.conv_kernel,
        "conv_bias": config.use_conv_bias,
        "chunk_size": config.chunk_size,
        "dt_limit_min": config.time_step_min,
    }
    attention = {
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "position": "none",
    }
    mlp = {
        "d_ff": config.intermediate_size,
        "activation": config.mlp_hidden_act,
        "gated": False,
        "in_bias": config.mlp_bias,
        "out_bias": config.mlp_bias,
    }
    return declared(
        "".join(_NEMOTRON[kind] for kind in config.layers_block_type),
        config,
        config.layer_norm_epsilon,
        {"M": mamba, "*": attention, "-": mlp},
    )


def nemotron_h_names(config: Any) -> Names:
    names = ends(config, "model.embeddings", "model.norm_f")
    parts = {
        "linear_attention": (MAMBA2, "out_proj"),
        "full_attention": (ATTENTION, "o_proj"),
        "mlp": (UP, "down_proj"),
    }
    for i, kind in enumerate(config.layers_block_type):
        layer = f"model.layers.{i}"
        mixing, out = parts[kind]
        names |= sublayer(i, f"{layer}.norm", f"{layer}.mixer", mixing, out)
    return names


def olmo3_spec(config: Any) -> Spec:
    """Olmo3ForCausalLM: W- or *- per layer, every norm after its mixer."""
    letters = ["*" if kind == "full_attention" else "W" for kind in config.layer_types]
    rope = config.rope_parameters["full_attention"]
    must(rope == config.rope_parameters["sliding_attention"], "rope_parameters")
    attention = {
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
        "rope_theta": rope["rope_theta"],
        "qk_norm": "width",
        "norm_position": "post",
    }
    return declared(
        "".join(f"{letter}-" for letter in letters),
        config,
        config.rms_norm_eps,
        {
            "*": attention,
            "W": {**attention, "window": config.sliding_window},
            "-": {**mlp_fields(config), "norm_position": "post"},
        },
    )


def olmo3_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.norm")
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        after = f"{layer}.post_attention_layernorm"
        names |= sublayer(2 * i, after, f"{layer}.self_attn", ATTENTION)
        names |= sublayer(2 * i + 1, f"{layer}.post_feedforward_layernorm", f"{layer}.mlp", MLP)
    return names


def qwen_spec(config: Any) -> Spec:
    """Qwen2ForCausalLM (biases of q, k and v) and Qwen3ForCausalLM (norms of q and k)."""
    own = {"qwen2": {"in_bias": True}, "qwen3": {"qk_norm": "head"}}[config.model_type]
    return declared(
        f"(*-){config.num_hidden_layers}",
        config,
        config.rms_norm_eps,
        {"*": {**attention_fields(config), **own}, "-": mlp_fields(config)},
    )


def ministral3_spec(config: Any) -> Spec:
    """Ministral3ForCausalLM: scores grow with the query's position, in steps."""
    rope = config.rope_parameters
    steps = {
        "kind": "steps",
        "length": float(rope["original_max_position_embeddings"]),
        "beta": rope["llama_4_scaling_beta"],
    }
    return declared(
        f"(*-){config.num_hidden_layers}",
        config,
        config.rms_norm_eps,
        {"*": {**attention_fields(config), "position_scale": steps}, "-": mlp_fields(config)},
    )
