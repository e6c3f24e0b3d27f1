"""Small GGUF files of Llama, written by PyPI's `gguf` from the published conversion's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from braidlm.files import write_json

SIZES = {"d": 64, "ff": 96, "heads": 4, "kv": 2, "head_dim": 16, "layers": 2, "vocab": 40}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": SIZES["vocab"],
    "hidden_size": SIZES["d"],
    "intermediate_size": SIZES["ff"],
    "num_hidden_layers": SIZES["layers"],
    "num_attention_heads": SIZES["heads"],
    "num_key_value_heads": SIZES["kv"],
    "head_dim": SIZES["head_dim"],
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
}
KEYS: dict[str, Any] = {
    "llama.context_length": 2048,
    "llama.vocab_size": SIZES["vocab"],
    "llama.embedding_length": SIZES["d"],
    "llama.block_count": SIZES["layers"],
    "llama.feed_forward_length": SIZES["ff"],
    "llama.attention.head_count": SIZES["heads"],
    "llama.attention.head_count_kv": SIZES["kv"],
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500.0,
    "llama.rope.dimension_count": SIZES["head_dim"],
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def weights(seed: int = 0, *, has_head: bool = True, has_bias: bool = False) -> dict[str, Any]:
    """Random tensors under the names of transformers."""
    s, draw = SIZES, torch.Generator().manual_seed(seed)
    q, kv = s["heads"] * s["head_dim"], s["kv"] * s["head_dim"]
    layer = {
        "self_attn.q_proj": (q, s["d"]),
        "self_attn.k_proj": (kv, s["d"]),
        "self_attn.v_proj": (kv, s["d"]),
        "self_attn.o_proj": (s["d"], q),
        "mlp.gate_proj": (s["ff"], s["d"]),
        "mlp.up_proj": (s["ff"], s["d"]),
        "mlp.down_proj": (s["d"], s["ff"]),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (s["vocab"], s["d"])}
    shapes |= {"lm_head.weight": (s["vocab"], s["d"])} if has_head else {}
    for i in range(s["layers"]):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.{k}.weight": shape for k, shape in layer.items()}
        shapes |= {f"{at}.{k}.bias": (shape[0],) for k, shape in layer.items() if has_bias}
        shapes |= dict.fromkeys((f"{at}.{k}.weight" for k in list(NAMES)[4:6]), (s["d"],))
    shapes["model.norm.weight"] = (s["d"],)
    return {k: torch.randn(shape, generator=draw) / 4 for k, shape in shapes.items()}


def theirs(name: str) -> str:
    """Return what llama.cpp calls a tensor."""
    for ours, short in NAMES.items():
        name = name.replace(ours, short)
    return name


def paired(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return rows of q and k as llama.cpp has them: the two channels of a rotated pair together."""
    if not any(f"attn_{x}." in name for x in "qk"):
        return tensor
    half = SIZES["head_dim"] // 2
    heads = tensor.reshape(-1, 2, half, *tensor.shape[1:])
    return heads.transpose(1, 2).reshape(tensor.shape)


def write(
    path: Path,
    tensors: dict[str, torch.Tensor],
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    keys: dict[str, Any] | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a file; `keys` that are None are left out, `more` tensors go in as they are."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {**KEYS, **(keys or {})}.items():
        add_key(writer, key, value)
    for name, tensor in tensors.items():
        data = paired(theirs(name), tensor).numpy()
        is_matrix = data.ndim == 2
        stored = gguf.quants.quantize(data, kind) if is_matrix else data
        writer.add_tensor(theirs(name), stored, raw_dtype=kind if is_matrix else None)
    for name, data in (more or {}).items():
        writer.add_tensor(name, data)
    finish(writer)
    return path


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adds |= {str: writer.add_string, list: writer.add_array}
    if value is not None:
        adds[type(value)](key, value)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantised(tensors: dict[str, torch.Tensor], kind: gguf.GGMLQuantizationType) -> Any:
    """Return what is left of matrices after they were quantised; the rows' order plays no part."""

    def there_and_back(data: np.ndarray) -> torch.Tensor:
        blocks = gguf.quants.quantize(data, kind)
        return torch.from_numpy(gguf.quants.dequantize(blocks, kind).reshape(data.shape).copy())

    return {k: there_and_back(t.numpy()) if t.dim() == 2 else t for k, t in tensors.items()}


def folder(path: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """Write the same model as a folder of transformers."""
    path.mkdir()
    write_json(path / "config.json", {**CONFIG, **changes})
    save_file({k: t.contiguous() for k, t in tensors.items()}, path / "model.safetensors")
    return path
