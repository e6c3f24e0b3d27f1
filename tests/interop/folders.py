"""Small foreign checkpoints, made from the published names alone: no library is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
LAYER = {
    "input_layernorm.weight": (12,),
    "post_attention_layernorm.weight": (12,),
    "self_attn.q_proj.weight": (24, 12),
    "self_attn.k_proj.weight": (12, 12),
    "self_attn.v_proj.weight": (12, 12),
    "self_attn.o_proj.weight": (12, 24),
    "mlp.gate_proj.weight": (20, 12),
    "mlp.up_proj.weight": (20, 12),
    "mlp.down_proj.weight": (12, 20),
}


def llama_tensors(vocab_size: int = 31) -> dict[str, torch.Tensor]:
    ends = ("model.embed_tokens.weight", "lm_head.weight")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(ends, (vocab_size, 12))
    shapes |= {"model.norm.weight": (12,)}
    shapes |= {f"model.layers.{i}.{k}": v for i in range(2) for k, v in LAYER.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def llama(folder: Path, **changes: Any) -> Path:
    """Write a folder; `changes` of the configuration, None takes a field away."""
    folder.mkdir(parents=True)
    config = {k: v for k, v in {**LLAMA, **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(llama_tensors(config["vocab_size"]), folder / "model.safetensors")
    return folder
