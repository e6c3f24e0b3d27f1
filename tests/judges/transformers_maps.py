"""How four families of transformers are spelled here: `<family>_spec` and `<family>_names`.

`spec` turns a configuration into our declaration, and refuses what we do not compute. `names` maps
each parameter of ours to those of the other side that it holds, stacked along its rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.arch import Spec

Names = dict[str, tuple[str, ...]]
"""Our parameter -> theirs. Rows are stacked in this order, then viewed in our shape."""

ATTENTION: Names = {"in_proj.weight": ("q_proj.weight", "k_proj.weight", "v_proj.weight")}
MLP: Names = {"in_proj.weight": ("gate_proj.weight", "up_proj.weight")}
MAMBA2: Names = {
    "in_proj.weight": ("in_proj.weight",),
    "conv_weight": ("conv1d.weight",),
    "conv_bias": ("conv1d.bias",),
    "dynamics.A_log": ("A_log",),
    "dynamics.D": ("D",),
    "dynamics.dt_bias": ("dt_bias",),
    "norm_weight": ("norm.weight",),
}
"""The order z, x, B, C, dt of the input projection is the same on both sides."""


def llama_spec(config: Any) -> Spec:
    """LlamaForCausalLM: (*-)n."""
    return _spec(
        f"(*-){config.num_hidden_layers}",
        config,
        config.rms_norm_eps,
        {"*": _attention(config), "-": _mlp(config)},
    )


def llama_names(config: Any) -> Names:
    names = _ends(config, "model.embed_tokens", "model.norm")
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        names |= _sublayer(2 * i, f"{layer}.input_layernorm", f"{layer}.self_attn", ATTENTION)
        names |= _sublayer(2 * i + 1, f"{layer}.post_attention_layernorm", f"{layer}.mlp", MLP)
    return names


def mamba2_spec(config: Any) -> Spec:
    """Mamba2ForCausalLM: (M)n."""
    _must(tuple(config.time_step_limit) == (0.0, math.inf), "time_step_limit")
    _must(not config.use_bias, "use_bias")
    mixer = {
        "n_heads": config.num_heads,
        "head_dim": config.head_dim,
        "d_state": config.state_size,
        "n_groups": config.n_groups,
        "d_conv": config.conv_kernel,
        "conv_bias": config.use_conv_bias,
        "chunk_size": config.chunk_size,
    }
    pattern = f"(M){config.num_hidden_layers}"
    return _spec(pattern, config, config.layer_norm_epsilon, {"M": mixer})


def mamba2_names(config: Any) -> Names:
    names = _ends(config, "backbone.embeddings", "backbone.norm_f")
    mixer = _mamba2_names(config.use_conv_bias, has_norm=True)
    for i in range(config.num_hidden_layers):
        layer = f"backbone.layers.{i}"
        names |= _sublayer(i, f"{layer}.norm", f"{layer}.mixer", mixer)
    return names


def bamba_spec(config: Any) -> Spec:
    """BambaForCausalLM: M- or *- per layer; half of each attention head is rotated."""
    letters = ["*" if kind == "full_attention" else "M" for kind in config.layers_block_type]
    return _spec(
        "".join(f"{letter}-" for letter in letters),
        config,
        config.rms_norm_eps,
        {"M": _mamba2(config, norm="gate_first"), "*": _attention(config), "-": _mlp(config)},
    )


def bamba_names(config: Any) -> Names:
    names = _ends(config, "model.embed_tokens", "model.final_layernorm")
    mixer = _mamba2_names(config.mamba_conv_bias, has_norm=True)
    for i, kind in enumerate(config.layers_block_type):
        layer = f"model.layers.{i}"
        place, mixing = ("self_attn", ATTENTION) if kind == "full_attention" else ("mamba", mixer)
        names |= _sublayer(2 * i, f"{layer}.input_layernorm", f"{layer}.{place}", mixing)
        names |= _sublayer(2 * i + 1, f"{layer}.pre_ff_layernorm", f"{layer}.feed_forward", MLP)
    return names


def falcon_h1_spec(config: Any) -> Spec:
    """FalconH1ForCausalLM with every multiplier 1: ({M*}-)n, two output projections, added."""
    multipliers = [
        *(config.lm_head_multiplier, config.embedding_multiplier, config.key_multiplier),
        *(config.attention_in_multiplier, config.attention_out_multiplier),
        *(config.ssm_in_multiplier, config.ssm_out_multiplier),
        *(*config.ssm_multipliers, *config.mlp_multipliers),
    ]
    _must(all(m == 1.0 for m in multipliers), "a multiplier")
    _must(not config.projectors_bias, "projectors_bias")
    first = "norm_first" if config.mamba_norm_before_gate else "gate_first"
    norm = first if config.mamba_rms_norm else "none"
    return _spec(
        f"({{M*}}-){config.num_hidden_layers}",
        config,
        config.rms_norm_eps,
        {"M": _mamba2(config, norm), "*": _attention(config), "-": _mlp(config)},
        fusion={"combine": "add", "norm": "none", "projection": "separate"},
    )


def falcon_h1_names(config: Any) -> Names:
    names = _ends(config, "model.embed_tokens", "model.final_layernorm")
    mixer = _mamba2_names(config.mamba_conv_bias, config.mamba_rms_norm)
    for i in range(config.num_hidden_layers):
        block, layer = f"blocks.{2 * i}", f"model.layers.{i}"
        names |= {
            f"{block}.norm.weight": (f"{layer}.input_layernorm.weight",),
            **_under(f"{block}.mix.branches.0", f"{layer}.mamba", mixer),
            **_under(f"{block}.mix.branches.1", f"{layer}.self_attn", ATTENTION),
            f"{block}.mix.combine.out_projs.0.weight": (f"{layer}.mamba.out_proj.weight",),
            f"{block}.mix.combine.out_projs.1.weight": (f"{layer}.self_attn.o_proj.weight",),
        }
        names |= _sublayer(2 * i + 1, f"{layer}.pre_ff_layernorm", f"{layer}.feed_forward", MLP)
    return names


def gather(
    names: Names, theirs: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Stack tensors of theirs (weights or gradients) into our names and the shapes of `like`."""
    return {
        ours: torch.cat([theirs[n] for n in parts]).reshape(like[ours].shape)
        for ours, parts in names.items()
    }


def load(model: nn.Module, names: Names, theirs: nn.Module) -> None:
    """Copy every parameter, each exactly once.

    Raises:
        ValueError: the map leaves out a parameter of either side, or uses one twice.
    """
    ours, other = dict(model.named_parameters()), dict(theirs.named_parameters())
    used = [n for parts in names.values() for n in parts]
    if set(names) != set(ours) or sorted(used) != sorted(other):
        raise ValueError(
            f"map does not fit: ours {sorted(set(names) ^ set(ours))}, "
            f"theirs {sorted(set(used) ^ set(other))}"
        )
    with torch.no_grad():
        for name, value in gather(names, other, ours).items():
            ours[name].copy_(value)


OUT = {"self_attn": "o_proj", "mlp": "down_proj", "feed_forward": "down_proj"}
"""Their name of a mixer's output projection, where it is not out_proj."""


def _ends(config: Any, embedding: str, norm: str) -> Names:
    head = {} if config.tie_word_embeddings else {"lm_head.weight": ("lm_head.weight",)}
    return {
        "embedding.weight": (f"{embedding}.weight",),
        "norm.weight": (f"{norm}.weight",),
        **head,
    }


def _sublayer(index: int, norm: str, mixer: str, mixing: Names) -> Names:
    block = f"blocks.{index}"
    out = OUT.get(mixer.rsplit(".", 1)[1], "out_proj")
    return {
        f"{block}.norm.weight": (f"{norm}.weight",),
        f"{block}.mix.out_proj.weight": (f"{mixer}.{out}.weight",),
        **_under(f"{block}.mix.mixer", mixer, mixing),
    }


def _under(ours: str, theirs: str, names: Names) -> Names:
    return {f"{ours}.{k}": tuple(f"{theirs}.{n}" for n in parts) for k, parts in names.items()}


def _mamba2_names(has_conv_bias: bool, has_norm: bool) -> Names:
    absent = {"conv_bias": not has_conv_bias, "norm_weight": not has_norm}
    return {ours: theirs for ours, theirs in MAMBA2.items() if not absent.get(ours, False)}


def _spec(
    pattern: str, config: Any, eps: float, mixers: dict[str, Any], fusion: dict | None = None
) -> Spec:
    _must(config.hidden_act == "silu", "hidden_act")
    return Spec.of(
        {
            "pattern": pattern,
            "d_model": config.hidden_size,
            "vocab_size": config.vocab_size,
            "tie_embeddings": config.tie_word_embeddings,
            "norm_eps": eps,
            "mixers": mixers,
            **({"fusion": fusion} if fusion else {}),
        }
    )


def _attention(config: Any) -> dict[str, Any]:
    _must(not config.attention_bias, "attention_bias")
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scaling = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    kind = rope["rope_type"]
    _must(kind == "default" or kind in scaling, "rope_type")
    fields = {
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": head_dim,
        "rope_theta": rope["rope_theta"],
        "rope_fraction": rope.get("partial_rotary_factor", 1.0),
    }
    if kind in scaling:
        fields["rope_scaling"] = {"kind": kind} | {k: rope[k] for k in scaling[kind]}
    if kind == "llama3":
        fields["rope_scaling"]["original_length"] = rope["original_max_position_embeddings"]
    return fields


def _mlp(config: Any) -> dict[str, Any]:
    _must(not config.mlp_bias, "mlp_bias")
    return {"d_ff": config.intermediate_size}


def _mamba2(config: Any, norm: str) -> dict[str, Any]:
    """The fields that Bamba and Falcon-H1 call by the same names."""
    _must(tuple(config.time_step_limit) == (0.0, math.inf), "time_step_limit")
    _must(not config.mamba_proj_bias, "mamba_proj_bias")
    return {
        "n_heads": config.mamba_n_heads,
        "head_dim": config.mamba_d_head,
        "d_state": config.mamba_d_state,
        "n_groups": config.mamba_n_groups,
        "d_conv": config.mamba_d_conv,
        "conv_bias": config.mamba_conv_bias,
        "chunk_size": config.mamba_chunk_size,
        "norm": norm,
    }


def _must(holds: bool, field: str) -> None:
    if not holds:
        raise ValueError(f"{field}: our model does not compute this setting")
