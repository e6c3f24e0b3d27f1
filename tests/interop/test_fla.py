"""Gated DeltaNet in the form of flash-linear-attention, made of the names that it publishes."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from braidlm import interop
from braidlm.errors import InputError
from braidlm.ops.norm import rms_norm

D, V, EPS = 16, 31, 1e-5
CONFIG: dict[str, Any] = {
    "model_type": "gated_deltanet",
    "architectures": ["GatedDeltaNetForCausalLM"],
    "attn_mode": "chunk",
    "hidden_size": D,
    "num_heads": 2,
    "num_v_heads": 4,
    "head_dim": 6,
    "expand_v": 1.5,
    "conv_size": 3,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "norm_eps": EPS,
    "vocab_size": V,
    "allow_neg_eigval": True,
    "fuse_norm": True,
}
HYBRID = {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "window_size": 5, "rope_theta": 500.0}
DELTA = {
    **{f"{x}_proj.weight": (12, D) for x in "qk"},
    **{f"{x}_proj.weight": (36, D) for x in "vg"},
    **{f"{x}_proj.weight": (4, D) for x in "ab"},
    **{f"{x}_conv1d.weight": (12, 1, 3) for x in "qk"},
    "v_conv1d.weight": (36, 1, 3),
    "A_log": (4,),
    "dt_bias": (4,),
    "o_norm.weight": (9,),
    "o_proj.weight": (D, 36),
}
ATTENTION = {f"{x}_proj.weight": (D if x in "qo" else 8, D) for x in "qkvo"}
MLP = {"gate_proj.weight": (20, D), "up_proj.weight": (20, D), "down_proj.weight": (D, 20)}


def write(folder, config) -> dict[str, Tensor]:
    attention = (config.get("attn") or {}).get("layers", ())
    shapes = {
        "model.embeddings.weight": (V, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (V, D),
    }
    for i in range(3):
        layer = {f"attn.{k}": s for k, s in (ATTENTION if i in attention else DELTA).items()}
        layer |= {f"mlp.{k}": s for k, s in MLP.items()}
        layer |= {"attn_norm.weight": (D,), "mlp_norm.weight": (D,)}
        shapes |= {f"model.layers.{i}.{k}": s for k, s in layer.items()}
    tensors = {k: torch.randn(s) * 0.4 for k, s in shapes.items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def judged(tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits by the delta rule of transformers, whose parameters have the same names."""
    code = pytest.importorskip("transformers.models.olmo_hybrid.modeling_olmo_hybrid")
    from transformers import OlmoHybridConfig

    config = OlmoHybridConfig(
        hidden_size=D,
        num_attention_heads=4,
        rms_norm_eps=EPS,
        linear_key_head_dim=6,
        linear_value_head_dim=9,
        linear_conv_kernel_dim=3,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
    x = tensors["model.embeddings.weight"][ids]
    for i in range(3):
        own = {
            k.removeprefix(f"model.layers.{i}."): t
            for k, t in tensors.items()
            if k.startswith(f"model.layers.{i}.")
        }
        mixer = code.OlmoHybridGatedDeltaNet(config, i).eval()
        state = {k[5:]: t for k, t in own.items() if k.startswith("attn.")}
        if "q_conv1d.weight" not in mixer.state_dict():
            state["conv1d.weight"] = torch.cat([state.pop(f"{c}_conv1d.weight") for c in "qkv"])
        mixer.load_state_dict(state)
        x = x + mixer(rms_norm(x, own["attn_norm.weight"], EPS))
        h = rms_norm(x, own["mlp_norm.weight"], EPS)
        gate, up = h @ own["mlp.gate_proj.weight"].T, h @ own["mlp.up_proj.weight"].T
        x = x + (torch.nn.functional.silu(gate) * up) @ own["mlp.down_proj.weight"].T
    return rms_norm(x, tensors["model.norm.weight"], EPS) @ tensors["lm_head.weight"].T


@torch.no_grad()
def test_its_form_is_read_and_judged(tmp_path):
    tensors = write(tmp_path / "a", CONFIG)
    model = interop.load(tmp_path / "a").model
    assert model.spec.pattern == "(G-)3"
    ids = torch.randint(0, V, (2, 19))
    expected = judged(tensors, ids)
    mine = model.head(model(ids).hidden)
    torch.testing.assert_close(mine, expected, atol=1e-4 * float(expected.std()), rtol=0)


def test_attention_lies_where_the_table_says(tmp_path):
    tensors = write(tmp_path / "a", CONFIG | {"attn": HYBRID})
    model = interop.load(tmp_path / "a").model
    assert model.spec.pattern == "G-*-G-"
    (attention,) = model.spec.sublayers[2].branches
    facts = {k: getattr(attention, k) for k in ("n_heads", "n_kv_heads", "window", "rope_theta")}
    assert facts == {"n_heads": 4, "n_kv_heads": 2, "window": 5, "rope_theta": 500.0}
    parts = [tensors[f"model.layers.1.attn.{x}_proj.weight"] for x in "qkv"]
    stored = model.state_dict()["blocks.2.mix.mixer.in_proj.weight"]
    assert torch.equal(stored, torch.cat(parts))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_gate": False}, "use_gate = False: no field of ours expresses it"),
        ({"expand_v": 0.7}, "expand_v = 0.7"),
        ({"attn": {"layers": [3]}}, r"attn.layers = \[3\]: .*numbers from 0 to 2"),
        ({"attn": {**HYBRID, "num_heads": 3}}, "attn.num_heads = 3: .*a divisor of 16"),
        ({"attn": {**HYBRID, "qk_norm": True}}, "attn.qk_norm = True"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, changes, reason):
    write(tmp_path / "a", CONFIG)
    (tmp_path / "a" / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(InputError, match=reason):
        interop.load(tmp_path / "a")
