"""Zamba2: Mamba-2; before some, one of several shared blocks in turn, each use with adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from braidlm.errors import InputError
from braidlm.interop.family import Ends, Family, Letter, Rows, rows
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Ours, Same, Words
from braidlm.interop.rope_tables import rope
from braidlm.interop.shared_tables import (
    ATTENTION_WIDTH,
    BLOCKS,
    HARMLESS,
    Turns,
    attention_width,
    block_fields,
    layers,
    wide_head_dim,
)
from braidlm.interop.tables import ATTENTION, ENDS, MAMBA2, biases, expansion

GATE_UP = {
    "in_proj.weight": rows("gate_up_proj.weight"),
    "in_proj.bias": rows("gate_up_proj.bias"),
}
LAYOUT = Turns(count="num_mem_blocks")
USUAL = "M" + "MMMMMH" * 7 + "MMMMH" + "MMMH" + "MM"
"""Layers where the file does not list them: H are those with a shared block."""


def _adapters(*lists: str) -> Callable[[int], Mapping[str, Rows]]:
    """Return the map of the low-rank products of one use: of q, k and v, or of gate and up."""

    def names(use: int) -> Mapping[str, Rows]:
        ups = {f"ups.{i}.weight": rows(f"{name}.{use}.1.weight") for i, name in enumerate(lists)}
        return {"down.weight": rows(*(f"{name}.{use}.0.weight" for name in lists)), **ups}

    return names


def _letters() -> dict[str, Letter]:
    of_qkv = _adapters(*(f"linear_{x}_adapter_list" for x in "qkv"))
    of_mlp = _adapters("gate_up_proj_adapter_list")
    found = {"M": Letter("mamba2", MAMBA2)}
    for a, f in BLOCKS:
        found[a] = Letter("attention", ATTENTION, "o_proj", is_shared=True, adapters=of_qkv)
        found[f] = Letter("mlp", GATE_UP, "down_proj", is_shared=True, adapters=of_mlp)
    return found


def _positions(letter: str) -> tuple[Field, ...]:
    """Rotary positions or none; a table of the former says nothing of the latter."""
    turned = rope(letter)

    def read(config: Foreign) -> Flat:
        found = turned.read(config) if config.get("use_mem_rope") is True else {}
        config.used |= {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
        return found

    words = Words("use_mem_rope", f"{letter}.position", ((False, "none"), (True, "rope")))
    return words, Coded(read, turned.write)


def _read_context(config: Foreign) -> Flat:
    """Said to stretch the rotation, but transformers does not; which one the weights have learned
    cannot be told."""
    found = config.get("use_long_context")
    if found is not False and config.get("use_mem_rope"):
        raise config.error("use_long_context", found, "False, or use_mem_rope = False beside it")
    return {}


def _attention_rank(letter: str) -> Field:
    """Products beside q, k and v, all as wide as the attention's input in theirs."""

    def read(config: Foreign) -> Flat:
        if config.get("use_shared_attention_adapter") is False:
            return {f"{letter}.lora_rank": 0}
        for name in ("num_attention_heads", "num_key_value_heads"):
            n, width = config.whole(name), attention_width(config)
            if n * config.whole("attention_head_dim") != width:
                allowed = f"as many as fill {width} channels, with use_shared_attention_adapter"
                raise config.error(name, n, allowed)
        return {f"{letter}.lora_rank": config.whole("adapter_rank")}

    def write(ours: Flat) -> dict[str, Any]:
        rank = ours.get(f"{letter}.lora_rank")
        if rank is None:
            return {}
        for name in ("n_heads", "n_kv_heads"):
            n, width = ours[f"{letter}.{name}"], ours[f"{letter}.head_dim"]
            if rank and n * width != 2 * ours["d_model"]:
                raise InputError(
                    f"{letter}.lora_rank = {rank}: adapters of theirs are 2 d_model channels "
                    f"wide, which {name} = {n} of {width} do not fill"
                )
        return {"use_shared_attention_adapter": rank > 0}

    return Coded(read, write)


def _mlp_rank(letter: str) -> Field:
    """The product beside gate and up, which every use has."""

    def write(ours: Flat) -> dict[str, Any]:
        rank = ours.get(f"{letter}.lora_rank")
        if rank == 0:
            raise InputError(f"{letter}.lora_rank = 0: adapter_rank of theirs is at least 1")
        return {} if rank is None else {"adapter_rank": rank}

    return Coded(lambda config: {f"{letter}.lora_rank": config.whole("adapter_rank")}, write)


def _inner_width(config: Foreign) -> int:
    return config.whole("mamba_expand") * config.whole("hidden_size")


def _read_mamba_heads(config: Foreign) -> Flat:
    """Heads must fill the inner width."""
    n, width, inner = (
        config.whole("n_mamba_heads"),
        config.whole("mamba_headdim"),
        _inner_width(config),
    )
    if n * width != inner:
        allowed = f"{inner} / n_mamba_heads, which must be a whole number"
        raise config.error("mamba_headdim", width, allowed)
    return {"M.n_heads": n, "M.head_dim": width}


def _write_mamba_heads(ours: Flat) -> dict[str, Any]:
    return {"n_mamba_heads": ours["M.n_heads"], "mamba_headdim": ours["M.head_dim"]}


def _read_numbers(config: Foreign) -> Flat:
    """The layers with a shared block, by number: they follow from the list."""
    given = config.data.get("hybrid_layer_ids")
    config.used.add("hybrid_layer_ids")
    found = [i for i, kind in enumerate(LAYOUT.read(config)) if kind != "mamba"]
    if given is not None and given != found:
        raise config.error("hybrid_layer_ids", given, f"{found}, as layers_block_type has it")
    return {}


def _of_block(a: str, f: str) -> tuple[Field, ...]:
    return (
        *block_fields(a, f),
        *_positions(a),
        _attention_rank(a),
        _mlp_rank(f),
        *biases("add_bias_linear", f),
    )


ZAMBA2 = Family(
    model_type="zamba2",
    architecture="Zamba2ForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers"),
    letters=_letters(),
    layers=layers("M", "shared_transformer", len(BLOCKS)),
    layout=LAYOUT,
    fields=(
        *ENDS,
        Must("rms_norm_eps", 1e-5),  # that of the norm inside Mamba-2, whatever this is
        Ours("norm_eps", 1e-5),
        Coded(_read_numbers, lambda ours: {}),
        *(field for a, f in reversed(BLOCKS) for field in _of_block(a, f)),  # the first says last
        ATTENTION_WIDTH,
        Coded(_read_context, lambda ours: {}),
        Coded(_read_mamba_heads, _write_mamba_heads),
        expansion("mamba_expand"),
        Same("mamba_d_state", "M.d_state"),
        Same("mamba_ngroups", "M.n_groups"),
        Same("mamba_d_conv", "M.d_conv"),
        Same("chunk_size", "M.chunk_size"),
        Same("time_step_min", "M.dt_limit_min"),  # a bound at every token too
        *biases("add_bias_linear", "M"),
    ),
    defaults={
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "layers_block_type": [{"M": "mamba", "H": "hybrid"}[x] for x in USUAL],
        "num_mem_blocks": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "attention_hidden_size": attention_width,
        "attention_head_dim": wide_head_dim,
        "use_mem_rope": False,
        "use_long_context": False,
        "use_shared_attention_adapter": False,
        "adapter_rank": 128,
        "intermediate_size": lambda config: 4 * config.whole("hidden_size"),
        "hidden_act": "gelu",
        "n_mamba_heads": 8,
        "mamba_headdim": lambda c: _inner_width(c) // c.whole("n_mamba_heads"),
        "mamba_expand": 2,
        "mamba_d_state": 64,
        "mamba_ngroups": 1,
        "mamba_d_conv": 4,
        "chunk_size": 256,
        "time_step_min": 0.001,
        "add_bias_linear": False,
    },
    harmless=HARMLESS | {"use_conv_bias"},  # their convolution has a bias either way
)
