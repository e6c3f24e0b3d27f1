"""How families of transformers are spelled here: `<family>_spec` and `<family>_names`.

`spec` turns a configuration into our declaration, and refuses what we do not compute. `names` maps
each parameter of ours to those of the other side that it holds, stacked along its rows.
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
    step_limits,
    sublayer,
    under,
)


def llama_spec(config: Any) -> Spec:
    """LlamaForCausalLM: (*-)n."""
    return declared(
        f"(*-){config.num_hidden_layers}",
        config,
        config.rms_norm_eps,
        {"*": attention_fields(config), "-": mlp_fields(config)},
    )


def llama_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.norm")
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        names |= sublayer(2 * i, f"{layer}.input_layernorm", f"{layer}.self_attn", ATTENTION)
        names |= sublayer(2 * i + 1, f"{layer}.post_attention_layernorm", f"{layer}.mlp", MLP)
    return names


def mamba2_spec(config: Any) -> Spec:
    """Mamba2ForCausalLM: (M)n."""
    mixer = {
        "in_bias": config.use_bias,
        "out_bias": config.use_bias,
        **step_limits(config.time_step_limit),
        "n_heads": config.num_heads,
        "head_dim": config.head_dim,
        "d_state": config.state_size,
        "n_groups": config.n_groups,
        "d_conv": config.conv_kernel,
        "conv_bias": config.use_conv_bias,
        "chunk_size": config.chunk_size,
    }
    pattern = f"(M){config.num_hidden_layers}"
    return declared(pattern, config, config.layer_norm_epsilon, {"M": mixer})


def mamba2_names(config: Any) -> Names:
    names = ends(config, "backbone.embeddings", "backbone.norm_f")
    for i in range(config.num_hidden_layers):
        layer = f"backbone.layers.{i}"
        names |= sublayer(i, f"{layer}.norm", f"{layer}.mixer", MAMBA2)
    return names


def bamba_spec(config: Any) -> Spec:
    """BambaForCausalLM: M- or *- per layer; half of each attention head is rotated."""
    letters = ["*" if kind == "full_attention" else "M" for kind in config.layers_block_type]
    return declared(
        "".join(f"{letter}-" for letter in letters),
        config,
        config.rms_norm_eps,
        {
            "M": mamba2_fields(config, norm="gate_first"),
            "*": attention_fields(config),
            "-": mlp_fields(config),
        },
    )


def bamba_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.final_layernorm")
    for i, kind in enumerate(config.layers_block_type):
        layer = f"model.layers.{i}"
        place, mixing = ("self_attn", ATTENTION) if kind == "full_attention" else ("mamba", MAMBA2)
        names |= sublayer(2 * i, f"{layer}.input_layernorm", f"{layer}.{place}", mixing)
        names |= sublayer(2 * i + 1, f"{layer}.pre_ff_layernorm", f"{layer}.feed_forward", MLP)
    return names


def falcon_h1_spec(config: Any) -> Spec:
    """FalconH1ForCausalLM: ({M*}-)n, two output projections, added."""
    first = "norm_first" if config.mamba_norm_before_gate else "gate_first"
    gate, down = config.mlp_multipliers
    mamba = {
        **mamba2_fields(config, first if config.mamba_rms_norm else "none"),
        "out_bias": config.projectors_bias,
        "in_multiplier": config.ssm_in_multiplier,
        "out_multiplier": config.ssm_out_multiplier,
        "multipliers": config.ssm_multipliers,
    }
    attention = {
        **attention_fields(config),
        "in_multiplier": config.attention_in_multiplier,
        "out_multiplier": config.attention_out_multiplier,
        "key_multiplier": config.key_multiplier,
    }
    mlp = {**mlp_fields(config), "gate_multiplier": gate, "out_multiplier": down}
    return declared(
        f"({{M*}}-){config.num_hidden_layers}",
        config,
        config.rms_norm_eps,
        {"M": mamba, "*": attention, "-": mlp},
        fusion={"combine": "add", "norm": "none", "projection": "separate"},
        embedding_multiplier=config.embedding_multiplier,
        logits_multiplier=config.lm_head_multiplier,
    )


def falcon_h1_names(config: Any) -> Names:
    names = ends(config, "model.embed_tokens", "model.final_layernorm")
    for i in range(config.num_hidden_layers):
        block, layer = f"blocks.{2 * i}", f"model.layers.{i}"
        names |= {
            f"{block}.norm.weight": (f"{layer}.input_layernorm.weight",),
            **under(f"{block}.mix.branches.0", f"{layer}.mamba", MAMBA2),
            **under(f"{block}.mix.branches.1", f"{layer}.self_attn", ATTENTION),
            f"{block}.mix.combine.out_projs.0.weight": (f"{layer}.mamba.out_proj.weight",),
            f"{block}.mix.combine.out_projs.0.bias": (f"{layer}.mamba.out_proj.bias",),
            f"{block}.mix.combine.out_projs.1.weight": (f"{layer}.self_attn.o_proj.weight",),
            f"{block}.mix.combine.out_projs.1.bias": (f"{layer}.self_attn.o_proj.bias",),
        }
        names |= sublayer(2 * i + 1, f"{layer}.pre_ff_layernorm", f"{layer}.feed_forward", MLP)
    return names
