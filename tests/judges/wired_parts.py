"""What the families of transformers share: their names of one mixer's weights, and its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.arch import Spec

Names = dict[str, tuple[str, ...]]
"""Our parameter -> theirs. Rows are stacked in this order, then viewed in our shape.

Rows of a name that begins with `TURNS` belong to two matrices of ours by turns, x, z, x, z, ...
"""
TURNS = "turns:"


class Ordered(tuple[str, ...]):
    """Names whose stacked rows are ours in another order: our row i is theirs at `order[i]`."""

    order: list[int]

    @classmethod
    def of(cls, names: tuple[str, ...], order: list[int]) -> Ordered:
        made = cls(names)
        made.order = order
        return made


ATTENTION: Names = {
    "in_proj.weight": ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
    "in_proj.bias": ("q_proj.bias", "k_proj.bias", "v_proj.bias"),
    "q_norm.weight": ("q_norm.weight",),
    "k_norm.weight": ("k_norm.weight",),
}
MLP: Names = {
    "in_proj.weight": ("gate_proj.weight", "up_proj.weight"),
    "in_proj.bias": ("gate_proj.bias", "up_proj.bias"),
}
MAMBA2: Names = {
    "in_proj.weight": ("in_proj.weight",),
    "in_proj.bias": ("in_proj.bias",),
    "conv_weight": ("conv1d.weight",),
    "conv_bias": ("conv1d.bias",),
    "dynamics.A_log": ("A_log",),
    "dynamics.D": ("D",),
    "dynamics.dt_bias": ("dt_bias",),
    "norm_weight": ("norm.weight",),
}
"""The order z, x, B, C, dt of the input projection is the same on both sides."""


def present(names: Names, theirs: nn.Module) -> Names:
    """Leave out what the other model does not have: biases, norms. `load` refuses what is lost."""
    there = dict(theirs.named_parameters())
    return {
        ours: parts
        for ours, parts in names.items()
        if any(part.removeprefix(TURNS) in there for part in parts)
    }


def gather(
    names: Names, theirs: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Stack tensors of theirs (weights or gradients) into our names and the shapes of `like`."""
    return {
        ours: _stacked(theirs, parts).reshape(like[ours].shape) for ours, parts in names.items()
    }


def _stacked(theirs: Mapping[str, Tensor], parts: tuple[str, ...]) -> Tensor:
    rows = torch.cat([_rows(theirs, n) for n in parts])
    return rows[parts.order] if isinstance(parts, Ordered) else rows


def _rows(theirs: Mapping[str, Tensor], name: str) -> Tensor:
    if not name.startswith(TURNS):
        return theirs[name]
    return theirs[name.removeprefix(TURNS)].unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)


def load(model: nn.Module, names: Names, theirs: nn.Module) -> None:
    """Copy every parameter, each exactly once.

    Raises:
        ValueError: the map leaves out a parameter of either side, or uses one twice.
    """
    ours, other = dict(model.named_parameters()), dict(theirs.named_parameters())
    used = [n.removeprefix(TURNS) for parts in names.values() for n in parts]
    if set(names) != set(ours) or sorted(used) != sorted(other):
        raise ValueError(
            f"map does not fit: ours {sorted(set(names) ^ set(ours))}, "
            f"theirs {sorted(set(used) ^ set(other))}"
        )
    with torch.no_grad():
        for name, value in gather(names, other, ours).items():
            ours[name].copy_(value)


OUT = {"self_attn": "o_proj", "mlp": "down_proj", "feed_forward": "down_proj"}
OUT["shared_mlp"] = "output_linear"
"""Their name of a mixer's output projection, where it is not out_proj."""


def ends(config: Any, embedding: str, norm: str) -> Names:
    head = {} if config.tie_word_embeddings else {"lm_head.weight": ("lm_head.weight",)}
    return {
        "embedding.weight": (f"{embedding}.weight",),
        "norm.weight": (f"{norm}.weight",),
        **head,
    }


def sublayer(index: int, norm: str, mixer: str, mixing: Names, out: str = "") -> Names:
    """One sublayer; `out` is their name of its output projection, where the mixer's tells not."""
    block = f"blocks.{index}"
    out = out or OUT.get(mixer.rsplit(".", 1)[1], "out_proj")
    return {
        f"{block}.norm.weight": (f"{norm}.weight",),
        f"{block}.mix.out_proj.weight": (f"{mixer}.{out}.weight",),
        f"{block}.mix.out_proj.bias": (f"{mixer}.{out}.bias",),
        **under(f"{block}.mix.mixer", mixer, mixing),
    }


def under(ours: str, theirs: str, names: Names) -> Names:
    def inside(name: str) -> str:
        turns = TURNS if name.startswith(TURNS) else ""
        return f"{turns}{theirs}.{name.removeprefix(TURNS)}"

    def moved(parts: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(map(inside, parts))
        return Ordered.of(found, parts.order) if isinstance(parts, Ordered) else found

    return {f"{ours}.{k}": moved(parts) for k, parts in names.items()}


def declared(pattern: str, config: Any, eps: float, mixers: dict[str, Any], **more: Any) -> Spec:
    """A model of their sizes; `more` are fields of the spec."""
    return Spec.of(
        {
            "pattern": pattern,
            "d_model": config.hidden_size,
            "vocab_size": config.vocab_size,
            "tie_embeddings": config.tie_word_embeddings,
            "norm_eps": eps,
            "mixers": mixers,
            **more,
        }
    )


def attention_fields(config: Any) -> dict[str, Any]:
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scaling = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    kind = rope["rope_type"]
    must(kind == "default" or kind in scaling, "rope_type")
    fields = {
        "in_bias": getattr(config, "attention_bias", False),
        "out_bias": getattr(config, "attention_bias", False),
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


def mlp_fields(config: Any) -> dict[str, Any]:
    bias = getattr(config, "mlp_bias", False)
    sizes = {"d_ff": config.intermediate_size, "activation": config.hidden_act}
    return {**sizes, "in_bias": bias, "out_bias": bias}


def mamba2_fields(config: Any, norm: str) -> dict[str, Any]:
    """The fields that Bamba and Falcon-H1 call by the same names."""
    return {
        "in_bias": config.mamba_proj_bias,
        "out_bias": config.mamba_proj_bias,
        **step_limits(config.time_step_limit),
        "n_heads": config.mamba_n_heads,
        "head_dim": config.mamba_d_head,
        "d_state": config.mamba_d_state,
        "n_groups": config.mamba_n_groups,
        "d_conv": config.mamba_d_conv,
        "conv_bias": config.mamba_conv_bias,
        "chunk_size": config.mamba_chunk_size,
        "norm": norm,
    }


def step_limits(limit: Any) -> dict[str, float]:
    """Their (low, high), where high may be infinite."""
    low, high = limit
    return {"dt_limit_min": low, **({} if math.isinf(high) else {"dt_limit_max": high})}


def must(holds: bool, field: str) -> None:
    if not holds:
        raise ValueError(f"{field}: our model does not compute this setting")
