"""Zamba and Zamba2: shared blocks of attention and MLP whose result goes to the next Mamba alone.

As in `wired_families`: `<family>_spec` and `<family>_names`. A hybrid layer of theirs is three
sublayers of ours: attention, MLP, Mamba. Blocks take turns: letters A and F, then B and G.
"""

from __future__ import annotations

from typing import Any

from braidlm.arch import Spec
from tests.judges.wired_parts import (
    ATTENTION,
    MAMBA2,
    MLP,
    Names,
    declared,
    ends,
    sublayer,
    under,
)

BLOCKS = ("AF", "BG")
GATE_UP: Names = {
    "in_proj.weight": ("gate_up_proj.weight",),
    "in_proj.bias": ("gate_up_proj.bias",),
}
MAMBA1: Names = {
    "in_proj.weight": ("turns:in_proj.weight",),
    "conv_weight": ("conv1d.weight",),
    "conv_bias": ("conv1d.bias",),
    "x_proj.weight": ("x_proj_weight",),
    "dt_proj.weight": ("dt_proj_weight",),
    "dynamics.A_log": ("A_log",),
    "dynamics.D": ("D",),
    "dynamics.dt_bias": ("dt_proj_bias",),
}


def _pattern(config: Any, n_blocks: int) -> str:
    letters, uses = "", 0
    for kind in config.layers_block_type:
        letters += (BLOCKS[uses % n_blocks] if kind == "hybrid" else "") + "M"
        uses += kind == "hybrid"
    return letters


def _blocks(config: Any, n_blocks: int, attention: dict, mlp: dict) -> dict[str, Any]:
    aside = {"shared": True, "output": "next_input"}
    mixers = {}
    for a, f in BLOCKS[:n_blocks]:
        mixers[a] = {
            "kind": "attention",
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "head_dim": config.attention_head_dim,
            "softmax_scale": (config.attention_head_dim / 2) ** -0.5,
            "input": "hidden+embedding",
            **aside,
            **attention,
        }
        mixers[f] = {
            "kind": "mlp",
            "d_ff": config.intermediate_size,
            "activation": config.hidden_act,
            "input": "handed",
            "use_projection": True,
            **aside,
            **mlp,
        }
    return mixers


def zamba_spec(config: Any) -> Spec:
    """ZambaForCausalLM; what it calls heads of its Mamba are groups of channels."""
    mamba = {
        "kind": "mamba1",
        "d_inner": config.mamba_expand * config.hidden_size,
        "d_state": config.mamba_d_state,
        "dt_rank": config.mamba_dt_rank,
        "n_groups": config.n_mamba_heads,
        "d_conv": config.mamba_d_conv,
        "conv_bias": config.mamba_conv_bias,
    }
    mixers = {"M": mamba, **_blocks(config, 1, {"position": "none"}, {})}
    return declared(_pattern(config, 1), config, config.rms_norm_eps, mixers)


def zamba_names(config: Any) -> Names:
    return _names(config, 1, "shared_transf", MAMBA1, MLP, 0)


def zamba2_spec(config: Any) -> Spec:
    """Zamba2ForCausalLM."""
    bias = config.add_bias_linear
    mamba = {
        "in_bias": bias,
        "out_bias": bias,
        "n_heads": config.n_mamba_heads,
        "head_dim": config.mamba_headdim,
        "d_state": config.mamba_d_state,
        "n_groups": config.mamba_ngroups,
        "d_conv": config.mamba_d_conv,
        "chunk_size": config.chunk_size,
        "dt_limit_min": config.time_step_min,
    }
    rank = config.adapter_rank
    attention: dict[str, Any] = {"position": "none"}
    if config.use_mem_rope:
        attention = {"rope_theta": config.rope_parameters["rope_theta"]}
    attention["lora_rank"] = rank if config.use_shared_attention_adapter else 0
    mlp = {"lora_rank": rank, "in_bias": bias, "out_bias": bias}
    n_blocks = config.num_mem_blocks
    mixers = {"M": mamba, **_blocks(config, n_blocks, attention, mlp)}
    return declared(_pattern(config, n_blocks), config, config.rms_norm_eps, mixers)


def zamba2_names(config: Any) -> Names:
    has_qkv = config.use_shared_attention_adapter
    n = config.num_mem_blocks
    return _names(config, n, "shared_transformer", MAMBA2, GATE_UP, 2 if has_qkv else 1)


def _names(
    config: Any, n_blocks: int, block: str, mamba: Names, mlp: Names, adapters: int
) -> Names:
    """`adapters`: 0 none, 1 of the MLP, 2 of the attention too."""
    names = ends(config, "model.embed_tokens", "model.final_layernorm")
    at, uses, owners = 0, 0, {}
    for i, kind in enumerate(config.layers_block_type):
        layer = inner = f"model.layers.{i}"
        if kind == "hybrid":
            which = uses % n_blocks
            if which not in owners:
                owners[which] = f"{layer}.{block}"
                names |= _owned(at, owners[which], mlp)
            names |= _of_use(at, uses, owners[which], adapters)
            names[f"blocks.{at + 1}.use_proj.weight"] = (f"{layer}.linear.weight",)
            at, uses, inner = at + 2, uses + 1, f"{layer}.mamba_decoder"
        names |= sublayer(at, f"{inner}.input_layernorm", f"{inner}.mamba", mamba)
        at += 1
    return names


def _owned(at: int, block: str, mlp: Names) -> Names:
    return {
        **sublayer(at, f"{block}.input_layernorm", f"{block}.self_attn", ATTENTION),
        **sublayer(at + 1, f"{block}.pre_ff_layernorm", f"{block}.feed_forward", mlp),
    }


def _of_use(at: int, use: int, block: str, adapters: int) -> Names:
    """The low-rank products of one use; all lie in the block's first layer, by use."""
    names: Names = {}
    if adapters > 1:
        lists = [f"linear_{x}_adapter_list.{use}" for x in "qkv"]
        names |= under(f"blocks.{at}.adapters", f"{block}.self_attn", _low_rank(lists))
    if adapters:
        lists = [f"gate_up_proj_adapter_list.{use}"]
        names |= under(f"blocks.{at + 1}.adapters", f"{block}.feed_forward", _low_rank(lists))
    return names


def _low_rank(lists: list[str]) -> Names:
    ups = {f"ups.{j}.weight": (f"{name}.1.weight",) for j, name in enumerate(lists)}
    return {"down.weight": tuple(f"{name}.0.weight" for name in lists), **ups}
