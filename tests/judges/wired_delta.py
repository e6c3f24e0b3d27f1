"""OLMo Hybrid and Qwen3-Next: Gated DeltaNet among attention, with norms and gates of their own.

As in `wired_families`: `<family>_spec` and `<family>_names`.
"""

from __future__ import annotations

from typing import Any

from braidlm.arch import Spec
from braidlm.interop.delta_tables import QWEN3_NEXT
from tests.judges.wired_parts import (
    ATTENTION,
    MLP,
    Names,
    Ordered,
    attention_fields,
    declared,
    ends,
    mlp_fields,
    sublayer,
    under,
)

RECURRENCE: Names = {
    "conv_weight": ("conv1d.weight",),
    "dynamics.A_log": ("A_log",),
    "dynamics.dt_bias": ("dt_bias",),
}
OLMO_DELTA: Names = {
    "in_proj.weight": tuple(f"{x}_proj.weight" for x in "qkvgab"),
    "norm_weight": ("o_norm.weight",),
    **RECURRENCE,
}


def _delta(config: Any) -> dict[str, Any]:
    return {
        "kind": "gated_deltanet",
        "n_heads": config.linear_num_key_heads,
        "n_v_heads": config.linear_num_value_heads,
        "head_dim": config.linear_key_head_dim,
        "v_head_dim": config.linear_value_head_dim,
        "d_conv": config.linear_conv_kernel_dim,
    }


def olmo_hybrid_spec(config: Any) -> Spec:
    """OlmoHybridForCausalLM: G- normed before, *F normed after."""
    after = {"norm_position": "post"}
    delta = _delta(config) | {"norm_eps": 1e-5}
    attention = {**attention_fields(config), "qk_norm": "width", **after}
    kinds = [kind == "full_attention" for kind in config.layer_types]
    return declared(
        "".join("*F" if is_attention else "G-" for is_attention in kinds),
        config,
        config.rms_norm_eps,
        {
            "G": delta | {"allow_negative_eigenvalues": config.linear_allow_neg_eigval},
            "*": attention,
            "-": mlp_fields(config),
            "F": {"kind": "mlp", **mlp_fields(config), **after},
        },
    )


def olmo_hybrid_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.norm")
    for i, kind in enumerate(config.layer_types):
        layer = f"model.layers.{i}"
        is_attention = kind == "full_attention"
        norms = ("post_attention_layernorm", "post_feedforward_layernorm")
        norms = norms if is_attention else ("input_layernorm", "post_attention_layernorm")
        place, mixing = ("self_attn", ATTENTION) if is_attention else ("linear_attn", OLMO_DELTA)
        first = f"{layer}.{norms[0]}"
        names |= sublayer(2 * i, first, f"{layer}.{place}", mixing, "o_proj")
        names |= sublayer(2 * i + 1, f"{layer}.{norms[1]}", f"{layer}.mlp", MLP)
    return names


def qwen3_next_spec(config: Any) -> Spec:
    """Qwen3NextForCausalLM without experts or with them in every layer: G, * and - or E."""
    letters = ["*" if kind == "full_attention" else "G" for kind in config.layer_types]
    attention = {**attention_fields(config), "qk_norm": "head", "output_gate": "channel"}
    experts = {
        "n_experts": config.num_experts,
        "top_k": config.num_experts_per_tok,
        "d_ff": config.moe_intermediate_size,
        "d_shared": config.shared_expert_intermediate_size,
        "shared_gate": True,
        "norm_topk": config.norm_topk_prob,
    }
    channel = {"E": experts} if config.num_experts else {"-": mlp_fields(config)}
    return declared(
        "".join(letter + next(iter(channel)) for letter in letters),
        config,
        config.rms_norm_eps,
        {"G": _delta(config), "*": attention, **channel},
        norm_offset=1.0,
    )


def qwen3_next_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.norm")
    for i, kind in enumerate(config.layer_types):
        layer, norm = f"model.layers.{i}", f"model.layers.{i}.input_layernorm"
        if kind == "full_attention":
            mixing = _gated(config)
            names |= sublayer(2 * i, norm, f"{layer}.self_attn", mixing)
        else:
            names |= sublayer(2 * i, norm, f"{layer}.linear_attn", _grouped(config))
        norm = f"{layer}.post_attention_layernorm"
        if not config.num_experts:
            names |= sublayer(2 * i + 1, norm, f"{layer}.mlp", MLP)
            continue
        names[f"blocks.{2 * i + 1}.norm.weight"] = (f"{norm}.weight",)
        names |= under(f"blocks.{2 * i + 1}.mix.mixer", f"{layer}.mlp", EXPERTS)
    return names


EXPERTS: Names = {
    "router.weight": ("gate.weight",),
    "experts_in": ("experts.gate_up_proj",),
    "experts_out": ("experts.down_proj",),
    "shared.mlp.in_proj.weight": ("shared_expert.gate_proj.weight", "shared_expert.up_proj.weight"),
    "shared.out_proj.weight": ("shared_expert.down_proj.weight",),
    "shared.gate.weight": ("shared_expert_gate.weight",),
}


def _gated(config: Any) -> Names:
    """Their q_proj has the query and the gate of each head beside each other."""
    heads, width, kv = config.num_attention_heads, config.head_dim, config.num_key_value_heads
    of_head = [range(2 * h * width, (2 * h + 1) * width) for h in range(heads)]
    queries = [i for rows in of_head for i in rows]
    keys_values = range(2 * heads * width, 2 * (heads + kv) * width)
    order = [*queries, *keys_values, *(i + width for i in queries)]
    return {**ATTENTION, "in_proj.weight": Ordered.of(ATTENTION["in_proj.weight"], order)}


def _grouped(config: Any) -> Names:
    """Their q, k, v and z are stored key head by key head."""
    rows = QWEN3_NEXT["in_proj.weight"]
    delta = Spec.of({"pattern": "G", "d_model": 8, "mixers": {"G": _delta(config)}})
    assert rows.order is not None
    order = rows.order(delta.mixers[0].mixer)[1]
    into = Ordered.of(rows.names, order)
    return {"in_proj.weight": into, "norm_weight": ("norm.weight",), **RECURRENCE}
