"""Small models of transformers and ours with the same weights, and how far they lie apart."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from braidlm import interop
from braidlm.interop import folder, weights
from braidlm.interop.families import FAMILIES
from braidlm.interop.names import entries
from braidlm.model import HybridLM
from braidlm.segments import Segments
from tests.judges.judging import distance, enliven, gradients, probe, relative

transformers = pytest.importorskip("transformers", minversion="5.15.1")
transformers.utils.logging.disable_progress_bar()

EXACT = 1e-12
"""Largest difference allowed when both compute in fp64; measured 3e-13."""
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
MAMBA1 = {
    **COMMON,
    **IDS,
    "num_hidden_layers": 3,
    "hidden_size": 15,
    "state_size": 5,
    "time_step_rank": 3,
}
JAMBA = {
    **COMMON,
    **IDS,
    **ATTENTION,
    "num_hidden_layers": 5,
    "hidden_size": 16,
    "num_experts": 1,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "mamba_dt_rank": 3,
}
SHARED = {
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
"""Four uses of shared blocks in six layers."""
ZAMBA = {**SHARED, "n_mamba_heads": 2, "mamba_dt_rank": 3}
ZAMBA2 = {
    **SHARED,
    "n_mamba_heads": 6,
    "mamba_expand": 3,
    "mamba_ngroups": 3,
    "chunk_size": 8,
    "num_mem_blocks": 2,
    "adapter_rank": 3,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 12,
    "beta_fast": 3.0,
}
"""Over 12 tokens the five channels of a head of 10 turn 1.9 to 0.01 times."""
NEMOTRON = {
    **IDS,
    **ATTENTION,
    "vocab_size": 37,
    "hidden_size": 15,
    "head_dim": 6,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
    "mamba_num_heads": 6,
    "mamba_head_dim": 5,
    "n_groups": 3,
    "ssm_state_size": 7,
    "chunk_size": 8,
}
GRANITE = {
    **COMMON,
    **IDS,
    **ATTENTION,
    **SSM,
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "mamba_expand": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_local_experts": 0,
    "shared_intermediate_size": 27,
    "logits_scaling": 3.0,
    "attention_multiplier": 0.4,
}
EAGER = {"experts_implementation": "eager"}
"""Another one knows no fp64."""
ROUTED = {
    **EAGER,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 9,
    "moe_shared_expert_intermediate_size": 11,
}
FACTORS = {
    "lm_head_multiplier": 0.4,
    "embedding_multiplier": 2.0,
    "key_multiplier": 0.7,
    "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.8,
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.9,
    "ssm_multipliers": [0.6, 1.1, 0.9, 1.4, 0.5],
    "mlp_multipliers": [0.7, 1.2],
}
OLMO = {
    **COMMON,
    **IDS,
    **ATTENTION,
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "rms_norm_eps": 1e-3,  # of the gated norm it is 1e-5, whatever this is
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 3,
}
KIMI = {
    **COMMON,
    **IDS,
    **EAGER,
    "num_hidden_layers": 4,
    "hidden_size": 20,
    "intermediate_size": 27,
    "moe_intermediate_size": 9,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "rms_norm_eps": 1e-3,  # of the latents' norms it is 1e-6, whatever this is
    "linear_head_dim": 10,
    "linear_num_heads": 2,
    "linear_conv_kernel_dim": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "dense"],
    "num_experts": 6,
    "num_experts_per_token": 2,
}
UNROTATED = {"rope_type": "default", "rope_theta": None}
ATTENTION_BIAS = {"attention_bias": True, "mlp_bias": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "llama tied, multi-query": (
        "Llama",
        {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "llama, linear rope": ("Llama", {**LLAMA, "rope_parameters": LINEAR}),
    "llama, llama3 rope": ("Llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "mamba2": ("Mamba2", MAMBA2),
    "mamba2 tied, no bias, one group": (
        "Mamba2",
        {**MAMBA2, "tie_word_embeddings": True, "use_conv_bias": False, "n_groups": 1},
    ),
    "mamba": ("Mamba", MAMBA1),
    "mamba untied, no bias": (
        "Mamba",
        {**MAMBA1, "tie_word_embeddings": False, "use_conv_bias": False, "expand": 1},
    ),
    "mamba, biases": ("Mamba", {**MAMBA1, "use_bias": True}),
    "falcon_mamba": ("FalconMamba", {**MAMBA1, "mixer_rms_eps": 0.01, "conv_kernel": 3}),
    "jamba": ("Jamba", JAMBA),
    "jamba, biases": ("Jamba", {**JAMBA, "mamba_proj_bias": True}),
    "zamba": ("Zamba", ZAMBA),
    "zamba, odd width, biases, narrow heads, one group": (
        "Zamba",
        {
            **ZAMBA,
            "hidden_size": 15,
            "mamba_expand": 3,
            "n_mamba_heads": 1,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "attention_head_dim": 5,
            "hidden_act": "relu2",
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            **ZAMBA2,
            "num_key_value_heads": 4,
            "use_mem_rope": True,
            "use_shared_attention_adapter": True,
            "add_bias_linear": True,
        },
    ),
    "zamba2, odd width, narrow heads, bounded steps": (
        "Zamba2",
        {
            **ZAMBA2,
            "hidden_size": 15,
            "n_mamba_heads": 9,
            "attention_head_dim": 6,
            "time_step_min": 0.02,
            "use_conv_bias": False,
        },
    ),
    "zamba2, one block, scaled rope": (
        "Zamba2",
        {**ZAMBA2, "num_mem_blocks": 1, "use_mem_rope": True, "rope_parameters": LLAMA3},
    ),
    "zamba2, three blocks, one left over": (
        "Zamba2",
        {**ZAMBA2, "num_mem_blocks": 3, "hidden_act": "silu", "mamba_ngroups": 1},
    ),
    "bamba": ("Bamba", BAMBA),
    "qwen3": ("Qwen3", LLAMA),
    "qwen3, windows, yarn": (
        "Qwen3",
        {
            **LLAMA,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "rope_parameters": YARN,
            "num_hidden_layers": 3,
            "attention_bias": True,
        },
    ),
    "llama, yarn between channels": (
        "Llama",
        {
            **LLAMA,
            "rope_parameters": {**YARN, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.3},
        },
    ),
    "nemotron_h": ("NemotronH", NEMOTRON),
    "granite": ("GraniteMoeHybrid", GRANITE),
    "llama, biases": ("Llama", {**LLAMA, **ATTENTION_BIAS}),
    "mamba2, biases, bounded steps": (
        "Mamba2",
        {**MAMBA2, "use_bias": True, "time_step_limit": (0.4, 0.7)},
    ),
    "bamba, biases": ("Bamba", {**BAMBA, **ATTENTION_BIAS, "mamba_proj_bias": True}),
    "falcon_h1, factors, biases, bounded steps": (
        "FalconH1",
        {
            **FALCON,
            **ATTENTION_BIAS,
            **FACTORS,
            "mamba_proj_bias": True,
            "projectors_bias": True,
            "time_step_limit": (0.4, 0.7),
        },
    ),
    "nemotron_h, biases, bounded steps": (
        "NemotronH",
        {**NEMOTRON, "use_bias": True, "mlp_bias": True, "time_step_min": 0.4},
    ),
    "granite, factors": (
        "GraniteMoeHybrid",
        {**GRANITE, "embedding_multiplier": 3, "residual_multiplier": 0.3},
    ),
    "nemotron_h, experts": (
        "NemotronH",
        {**NEMOTRON, **ROUTED, "layers_block_type": ["linear_attention", "moe", "full_attention"]},
    ),
    "nemotron_h, latent experts": (
        "NemotronH",
        {
            **NEMOTRON,
            **ROUTED,
            "layers_block_type": ["moe", "linear_attention", "moe", "full_attention"],
            "moe_latent_size": 6,
            "n_group": 3,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
        },
    ),
    "granite, experts": (
        "GraniteMoeHybrid",
        {**GRANITE, **EAGER, "num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "jamba, experts": ("Jamba", {**JAMBA, **EAGER, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_next, experts": (
        "Qwen3Next",
        {
            **COMMON,
            **IDS,
            **ATTENTION,
            **EAGER,
            "num_hidden_layers": 3,
            "hidden_size": 16,
            "head_dim": 8,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 6,
            "linear_value_head_dim": 5,
            "linear_conv_kernel_dim": 3,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 9,
            "shared_expert_intermediate_size": 11,
            "mlp_only_layers": [1],
            "attention_bias": True,
        },
    ),
    "olmo_hybrid": ("OlmoHybrid", {**OLMO, "attention_bias": True}),
    "olmo_hybrid, no positions, positive eigenvalues": (
        "OlmoHybrid",
        {
            **OLMO,
            "rope_parameters": UNROTATED,
            "linear_allow_neg_eigval": False,
            "tie_word_embeddings": True,
            "head_dim": 10,
        },
    ),
    "kimi_linear": (
        "KimiLinear",
        {**KIMI, "num_expert_group": 3, "topk_group": 2, "num_shared_experts": 2},
    ),
    "kimi_linear, latent queries, weights as scored": (
        "KimiLinear",
        {
            **KIMI,
            "q_lora_rank": 8,
            "moe_renormalize": False,
            "mlp_layer_types": None,
        },
    ),
    "granite, rope": ("GraniteMoeHybrid", {**GRANITE, "position_embedding_type": "rope"}),
    "falcon_h1 without norm": ("FalconH1", FALCON),
    "falcon_h1 norm first": ("FalconH1", {**FALCON, "mamba_rms_norm": True}),
    "falcon_h1 gate first": (
        "FalconH1",
        {**FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
    ),
}


FAST = frozenset(
    {
        *("llama", "qwen3, windows, yarn", "mamba2", "bamba", "granite, experts"),
        *("jamba, experts", "mamba", "qwen3_next, experts", "olmo_hybrid", "kimi_linear"),
        *("zamba", "zamba2"),
        *("falcon_h1, factors, biases, bounded steps", "nemotron_h, latent experts"),
    }
)
"""One of each family, with as much as it can; the others are slow."""
DELTA = ("qwen3_next", "olmo_hybrid", "kimi_linear")
"""Families with a delta rule, in chunks of 64."""
EACH = [pytest.param(case, marks=() if case in FAST else pytest.mark.slow) for case in CASES]


class Pair(NamedTuple):
    ours: HybridLM
    theirs: Any


def model_of(case: str) -> Any:
    """The judge's model, drawn at random."""
    family, fields = CASES[case]
    config = getattr(transformers, f"{family}Config")(**fields)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    enliven(theirs)
    for name, buffer in theirs.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(3)))
    return theirs


def pair(case: str, dtype: torch.dtype = torch.float64) -> Pair:
    """Both models with the same weights: ours reads what the judge's has saved."""
    theirs = model_of(case).to(dtype)
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        ours = interop.load(place, dtype=dtype).model.to(dtype)  # frequencies too
    share_frequencies(ours, theirs)
    return Pair(ours, theirs)


def as_ours(p: Pair, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the judge's parameters, such as gradients, under our names and in our shapes."""
    family = FAMILIES[p.theirs.config.model_type]
    with tempfile.TemporaryDirectory() as place:
        p.theirs.save_pretrained(place, state_dict=dict(theirs))
        plan = entries(family, p.ours.spec)
        source = weights.respelled(folder.source(Path(place)), family.respelled, place)
        known = [entry for entry in plan if source.about.keys() >= entry.theirs.keys()]
        return dict(weights.to_ours(source, known))


def share_frequencies(ours: HybridLM, theirs: Any) -> None:
    """Frequencies are fp32 on both sides and may differ in the last bit: 1e-7 of an angle."""
    own = [b for name, b in ours.named_buffers() if name.endswith("inv_freq")]
    other = [b for name, b in theirs.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    for buffer in other:
        torch.testing.assert_close(own[0], buffer.to(own[0]), rtol=3e-7, atol=0)
        buffer.copy_(own[0])


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 37, shape, generator=torch.Generator().manual_seed(2))


def judged(theirs: Any, ids: Tensor) -> Tensor:
    return theirs(input_ids=ids, use_cache=False).logits


def our_logits(ours: HybridLM, ids: Tensor, segments: Segments | None = None) -> Tensor:
    return ours.head(ours(ids, segments, return_state=False).hidden)


def differences(p: Pair, ids: Tensor) -> tuple[float, float]:
    """Return the largest difference of logits and of gradients, relative, for rows (B, T)."""
    return against_rows(p, our_logits(p.ours, ids).flatten(0, 1), list(ids))


def against_rows(p: Pair, logits: Tensor, rows: list[Tensor]) -> tuple[float, float]:
    """Compare logits (sum of lengths, V) with the judge's for each row alone."""
    expected = torch.cat([judged(p.theirs, row[None])[0] for row in rows])
    direction = probe(tuple(expected.shape)).to(expected)
    mine = gradients((logits * direction).sum(), p.ours)
    yours = gradients((expected * direction).sum(), p.theirs)
    return distance(logits, expected), relative(mine, as_ours(p, yours))
