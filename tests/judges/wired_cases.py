"""Tiny configurations of transformers whose wiring is not the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from braidlm.arch import Spec
from tests.judges import wired_delta as delta
from tests.judges import wired_families as families
from tests.judges import wired_maps as maps
from tests.judges import wired_zamba as zamba
from tests.judges.wired_parts import Names

COMMON = {"vocab_size": 37, "num_hidden_layers": 2}
IDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
"""A padding id would cut the gradient of one row of their embedding."""
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 27}
LLAMA = {**COMMON, **IDS, **ATTENTION, "hidden_size": 20, "head_dim": 10}
MAMBA2 = {
    **COMMON,
    **IDS,
    "num_hidden_layers": 3,
    "hidden_size": 15,
    "num_heads": 6,
    "head_dim": 5,
    "state_size": 7,
    "n_groups": 3,
    "chunk_size": 8,
}
SSM = {"mamba_n_heads": 6, "mamba_d_state": 7, "mamba_n_groups": 3, "mamba_chunk_size": 8}
BAMBA = {
    **COMMON,
    **IDS,
    **ATTENTION,
    **SSM,
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "mamba_expand": 3,
    "mamba_d_head": 8,
    "mamba_d_conv": 3,
    "attn_layer_indices": [1],
}
FALCON = {
    **COMMON,
    **IDS,
    **ATTENTION,
    **SSM,
    "hidden_size": 20,
    "head_dim": 10,
    "mamba_d_ssm": 30,
    "mamba_d_head": 5,
}
BIASES = {"attention_bias": True, "mlp_bias": True}
MULTIPLIERS = {
    "embedding_multiplier": 1.5,
    "lm_head_multiplier": 0.25,
    "key_multiplier": 0.5,
    "attention_in_multiplier": 1.25,
    "attention_out_multiplier": 0.75,
    "ssm_in_multiplier": 0.625,
    "ssm_out_multiplier": 1.75,
    "ssm_multipliers": [0.5, 1.5, 0.75, 2.0, 1.25],
    "mlp_multipliers": [0.875, 0.375],
}
"""Exact in fp32, in which the judge holds some of them."""
GRANITE = {
    **COMMON,
    **IDS,
    **ATTENTION,
    **SSM,
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "mamba_expand": 2,
    "mamba_d_head": 8,
    "num_local_experts": 0,
    "shared_intermediate_size": 27,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.2,
    "logits_scaling": 3.0,
}
NEMOTRON = {
    "vocab_size": 37,
    **IDS,
    **ATTENTION,
    "hidden_size": 20,
    "head_dim": 10,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"],
    "mamba_num_heads": 6,
    "mamba_head_dim": 5,
    "ssm_state_size": 7,
    "n_groups": 3,
    "chunk_size": 8,
    "time_step_min": 0.01,
}
"""Steps are kept above time_step_min; 0.01 is among those that the weights make."""
OLMO = {
    **COMMON,
    **IDS,
    **ATTENTION,
    "hidden_size": 24,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
}
OLMO_HYBRID = {**COMMON, **IDS, **ATTENTION, **DELTA, "hidden_size": 24}
QWEN_NEXT = {
    **COMMON,
    **IDS,
    **ATTENTION,
    **DELTA,
    "hidden_size": 20,
    "head_dim": 8,
    "num_experts": 0,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.5,
    },
}
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "shared_expert_intermediate_size": 9,
    "norm_topk_prob": True,
    "experts_implementation": "eager",
}
STEPS = {
    "rope_type": "default",
    "rope_theta": 500.0,
    "llama_4_scaling_beta": 0.3,
    "original_max_position_embeddings": 7,
}
QWEN = {**COMMON, **IDS, **ATTENTION, "hidden_size": 24}
ZAMBA = {
    **COMMON,
    **IDS,
    **ATTENTION,
    "hidden_size": 16,
    "num_hidden_layers": 6,
    "layers_block_type": [
        "linear_attention",
        *["hybrid", "linear_attention", "hybrid"],
        *["hybrid"] * 2,
    ],
    "mamba_d_state": 7,
    "mamba_d_conv": 3,
}
"""Four uses in a row of six layers."""
ZAMBA1 = {**ZAMBA, "n_mamba_heads": 2, "mamba_dt_rank": 3}
ZAMBA2 = {
    **ZAMBA,
    "n_mamba_heads": 6,
    "mamba_expand": 3,
    "mamba_ngroups": 3,
    "chunk_size": 8,
    "num_mem_blocks": 2,
    "adapter_rank": 3,
    "time_step_min": 0.01,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, biases": ("Llama", {**LLAMA, **BIASES}),
    "mamba2, biases, limited steps": (
        "Mamba2",
        {**MAMBA2, "use_bias": True, "time_step_limit": (0.02, 0.6)},
    ),
    "bamba, biases": ("Bamba", {**BAMBA, **BIASES, "mamba_proj_bias": True}),
    "falcon_h1, multipliers": ("FalconH1", {**FALCON, **MULTIPLIERS}),
    "falcon_h1, biases and multipliers": (
        "FalconH1",
        {**FALCON, **MULTIPLIERS, **BIASES, "projectors_bias": True, "mamba_proj_bias": True},
    ),
    "granite, dense": ("GraniteMoeHybrid", GRANITE),
    "granite, dense, rope, biases": (
        "GraniteMoeHybrid",
        {**GRANITE, "position_embedding_type": "rope", "attention_bias": True},
    ),
    "nemotron_h, dense": ("NemotronH", NEMOTRON),
    "nemotron_h, dense, biases": ("NemotronH", {**NEMOTRON, "use_bias": True, "mlp_bias": True}),
    "olmo3": ("Olmo3", OLMO),
    "olmo hybrid": ("OlmoHybrid", OLMO_HYBRID),
    "qwen3-next, dense": ("Qwen3Next", QWEN_NEXT),
    "qwen3-next": ("Qwen3Next", {**QWEN_NEXT, **EXPERTS}),
    "qwen2": ("Qwen2", QWEN),
    "ministral3": ("Ministral3", {**QWEN, "head_dim": 10, "rope_parameters": STEPS}),
    "zamba": ("Zamba", ZAMBA1),
    "zamba2, two blocks": ("Zamba2", ZAMBA2),
    "zamba2, one block, rope, adapters of q, k, v": (
        "Zamba2",
        {**ZAMBA2, "num_mem_blocks": 1, "use_mem_rope": True, "use_shared_attention_adapter": True}
        | {"num_key_value_heads": 4},
    ),
    "zamba2, biases": ("Zamba2", {**ZAMBA2, "add_bias_linear": True}),
    "qwen3": ("Qwen3", {**QWEN, "head_dim": 10}),
}
FAMILIES: dict[str, tuple[Callable[[Any], Spec], Callable[[Any], Names]]] = {
    "Llama": (maps.llama_spec, maps.llama_names),
    "Mamba2": (maps.mamba2_spec, maps.mamba2_names),
    "Bamba": (maps.bamba_spec, maps.bamba_names),
    "FalconH1": (maps.falcon_h1_spec, maps.falcon_h1_names),
    "GraniteMoeHybrid": (families.granite_spec, families.granite_names),
    "NemotronH": (families.nemotron_h_spec, families.nemotron_h_names),
    "Olmo3": (families.olmo3_spec, families.olmo3_names),
    "Zamba": (zamba.zamba_spec, zamba.zamba_names),
    "Zamba2": (zamba.zamba2_spec, zamba.zamba2_names),
    "OlmoHybrid": (delta.olmo_hybrid_spec, delta.olmo_hybrid_names),
    "Qwen3Next": (delta.qwen3_next_spec, delta.qwen3_next_names),
    "Ministral3": (families.ministral3_spec, maps.llama_names),
    "Qwen2": (families.qwen_spec, maps.llama_names),
    "Qwen3": (families.qwen_spec, maps.llama_names),
}
