"""Llama as llama.cpp has it: keys and tensors of a GGUF file. It is only read.

What its keys leave to the tensors (`vocab_size`, ties, biases, stretched frequencies) is said
beside them by `interop.gguf`. Rotated pairs of channels are neighbours in every head of q and k.
"""

from __future__ import annotations

from typing import Any

from braidlm.arch.mixers import AttentionConfig, MixerConfig
from braidlm.errors import InputError
from braidlm.interop.family import Ends, Family, Letter, Place, Rows, rows
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Same
from braidlm.interop.layout import Uniform
from braidlm.interop.mha_tables import pairs_to_halves
from braidlm.interop.rope_factors import scaling_of

ARCHITECTURE = "llama"
EPS, SCALING = "llama.attention.layer_norm_rms_epsilon", "llama.rope.scaling"
FACTORS = "rope_factors"
"""Numbers of the tensor `rope_freqs.weight`, which divide the rotary frequencies; None: no such."""


def _neighbours(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    assert isinstance(config, AttentionConfig)
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return (q, kv, kv), pairs_to_halves(config)[1]


def _stacked(kind: str) -> Rows:
    names = tuple(f"attn_{x}.{kind}" for x in "qkv")
    return Rows(names, order=_neighbours)


def _head_dim(config: Foreign) -> int:
    """Return the width of a head; keys and values have one width here."""
    n, d_model = config.whole("llama.attention.head_count"), config.whole("llama.embedding_length")
    keys = [f"llama.attention.{x}_length" for x in ("key", "value")]
    widths = [config.whole(k) if k in config.data else d_model // n for k in keys]
    if widths[0] != widths[1]:
        raise config.error(keys[1], widths[1], f"{widths[0]}, as wide as a key")
    return widths[0]


def _heads(config: Foreign) -> Flat:
    n = config.whole("llama.attention.head_count")
    has_groups = "llama.attention.head_count_kv" in config.data
    return {
        "*.n_heads": n,
        "*.n_kv_heads": config.whole("llama.attention.head_count_kv") if has_groups else n,
        "*.head_dim": _head_dim(config),
    }


def _rope(config: Foreign) -> Flat:
    """The first `dimension_count` channels of a head are rotated."""
    width, theta = _head_dim(config), config.get("llama.rope.freq_base")
    turned = config.whole("llama.rope.dimension_count")
    if turned > width or turned % 2:
        raise config.error("llama.rope.dimension_count", turned, f"even, and at most {width}")
    return {
        "*.rope_theta": theta,
        "*.rope_fraction": turned / width,
        "*.rope_scaling": _scaling(config, turned, theta),
    }


def _scaling(config: Foreign, turned: int, theta: float) -> Flat | None:
    factors = config.get(FACTORS)
    keys = (f"{SCALING}.original_context_length", f"{SCALING}.factor", f"{SCALING}.type")
    original, factor, kind = (config.get(key) for key in keys)
    original = original or None
    if kind not in ("none", "linear", "yarn"):
        raise config.error(keys[2], kind, "none, linear, yarn")
    is_stretched = kind != "none" and factor not in (0, 1)
    if factors:
        if is_stretched:
            raise config.error(keys[2], kind, "none beside the tensor rope_freqs.weight")
        try:
            return scaling_of(factors, theta, turned, original)
        except InputError as error:
            raise InputError(f"{config.where}: tensor 'rope_freqs.weight': {error}") from None
    if not is_stretched:
        return None
    if kind == "yarn" and original is None:
        raise config.error(keys[0], original, "the length before it was stretched by yarn")
    length = {"original_length": original} if kind == "yarn" else {}
    return {"kind": kind, "factor": factor, **length}


ROPE: Field = Coded(_rope, lambda ours: {})
HEADS: Field = Coded(_heads, lambda ours: {})

GGUF_LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    ends=Ends("token_embd.weight", "output_norm.weight", "blk", head="output.weight"),
    letters={
        "*": Letter(
            "attention",
            {"in_proj.weight": _stacked("weight"), "in_proj.bias": _stacked("bias")},
            out="attn_output",
        ),
        "-": Letter(
            "mlp",
            {
                "in_proj.weight": rows("ffn_gate.weight", "ffn_up.weight"),
                "in_proj.bias": rows("ffn_gate.bias", "ffn_up.bias"),
            },
            out="ffn_down",
        ),
    },
    layers={"layer": (Place("*", "attn_norm", ("",)), Place("-", "ffn_norm", ("",)))},
    layout=Uniform(count="llama.block_count"),
    fields=(
        Same("llama.embedding_length", "d_model"),
        Same("vocab_size", "vocab_size"),
        Same("tie_embeddings", "tie_embeddings"),
        Same(EPS, "norm_eps"),
        HEADS,
        ROPE,
        *(
            Same(f"{letter}.{end}_bias", f"{letter}.{end}_bias")
            for letter in "*-"
            for end in ("in", "out")
        ),
        Same("llama.feed_forward_length", "-.d_ff"),
        Must("llama.expert_count", 0),
        Must("llama.expert_used_count", 0),
    ),
    defaults={
        "llama.rope.freq_base": 10_000.0,
        "llama.rope.dimension_count": _head_dim,
        f"{SCALING}.type": "linear",
        f"{SCALING}.factor": 1.0,
        f"{SCALING}.original_context_length": 0,
        FACTORS: [],
        "llama.expert_count": 0,
        "llama.expert_used_count": 0,
    },
    harmless=frozenset({"llama.context_length", f"{SCALING}.finetuned"}),
    skipped=(r"rope_freqs\.weight", r"blk\.\d+\.attn_rot_embd\.weight"),
)


def says(data: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that speak of the model; others tell of the file or the tokenizer."""
    return {key: value for key, value in data.items() if key.startswith(f"{ARCHITECTURE}.")}
