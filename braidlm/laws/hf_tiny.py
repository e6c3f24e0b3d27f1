"""Tiny configurations of families in transformers: odd widths, several groups, chunks of 8.

A width that is a multiple of nothing tells axes apart; several groups and layers of every kind
leave nothing out. Experts need widths that are multiples of 8: their fused product asks for that.
"""

from __future__ import annotations

from typing import Any

COMMON = {"vocab_size": 37, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 27}
SELECTIVE = {"hidden_size": 15, "num_hidden_layers": 3, "state_size": 7, "time_step_rank": 3}
STATE_SPACE = {
    "mamba_n_heads": 24,
    "mamba_d_state": 7,
    "mamba_n_groups": 3,
    "mamba_chunk_size": 8,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LINEAR = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]

TINY: dict[str, dict[str, Any]] = {
    "llama": {**ATTENTION, "hidden_size": 20, "num_hidden_layers": 2, "head_dim": 10},
    "qwen3": {**ATTENTION, "hidden_size": 20, "num_hidden_layers": 2, "head_dim": 10},
    "mamba": SELECTIVE,
    "falcon_mamba": SELECTIVE,
    "mamba2": {
        "hidden_size": 15,
        "num_hidden_layers": 3,
        "expand": 6,
        "num_heads": 18,
        "head_dim": 5,
        "state_size": 7,
        "n_groups": 3,
        "chunk_size": 8,
    },
    "jamba": {
        **ATTENTION,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "mamba_d_state": 7,
        "mamba_dt_rank": 3,
        "use_mamba_kernels": False,
    },
    "zamba": {
        **ATTENTION,
        "hidden_size": 20,
        "attention_hidden_size": 40,
        "attention_head_dim": 10,
        "num_key_value_heads": 4,
        "num_hidden_layers": 6,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"],
        "n_mamba_heads": 2,
        "mamba_d_state": 7,
        "mamba_dt_rank": 3,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "hidden_size": 15,
        "num_hidden_layers": 5,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"],
        "mamba_d_state": 7,
        "mamba_expand": 6,
        "mamba_ngroups": 3,
        "n_mamba_heads": 18,
        "chunk_size": 8,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "intermediate_size": 27,
        "adapter_rank": 3,
        "use_shared_attention_adapter": True,
        "use_mem_rope": True,
        "num_mem_blocks": 1,
        "use_mamba_kernels": False,
    },
    "bamba": {
        **ATTENTION,
        **STATE_SPACE,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "mamba_expand": 3,
        "mamba_d_head": 2,
        "mamba_d_conv": 3,
        "attn_layer_indices": [1],
    },
    "falcon_h1": {
        **ATTENTION,
        **STATE_SPACE,
        "hidden_size": 20,
        "head_dim": 10,
        "num_hidden_layers": 2,
        "mamba_d_ssm": 72,
        "mamba_d_head": 3,
        "mamba_rms_norm": True,
    },
    "nemotron_h": {
        **ATTENTION,
        **EXPERTS,
        "hidden_size": 24,
        "layers_block_type": ["mamba", "mlp", "mamba", "attention", "moe", "mamba"],
        "ssm_state_size": 7,
        "mamba_num_heads": 18,
        "mamba_head_dim": 5,
        "n_groups": 3,
        "chunk_size": 8,
        "head_dim": 6,
        "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": 11,
        "use_mamba_kernels": False,
    },
    "granitemoehybrid": {
        **ATTENTION,
        **STATE_SPACE,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_expand": 3,
        "mamba_d_head": 2,
        "mamba_d_conv": 3,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 11,
        "position_embedding_type": "rope",
    },
    "qwen3_next": {
        **ATTENTION,
        **EXPERTS,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "layer_types": LINEAR,
        "linear_key_head_dim": 5,
        "linear_value_head_dim": 7,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "head_dim": 8,
        "num_experts": 4,
        "shared_expert_intermediate_size": 11,
    },
    "olmo_hybrid": {
        **ATTENTION,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "layer_types": LINEAR,
        "linear_num_key_heads": 3,
        "linear_num_value_heads": 3,
        "linear_key_head_dim": 5,
        "linear_value_head_dim": 10,
    },
    "kimi_linear": {
        **ATTENTION,
        **EXPERTS,
        "hidden_size": 24,
        "num_key_value_heads": 4,
        "num_hidden_layers": 4,
        "layer_types": LINEAR,
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse"],
        "linear_head_dim": 5,
        "linear_num_heads": 3,
        "kv_lora_rank": 6,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 5,
        "v_head_dim": 7,
        "num_local_experts": 4,
    },
}
"""Model type -> the fields that make it tiny; every other field stays as it is."""


def shrunk(fields: dict[str, Any], model_type: str) -> dict[str, Any] | None:
    """Return a configuration's fields with tiny sizes, or None for a family without any."""
    if model_type not in TINY:
        return None
    return {**fields, **COMMON, **TINY[model_type]}
