"""Checkpoints of mamba_ssm with attention and MLP layers, judged by that package's equations."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from braidlm import interop
from braidlm.arch.mixers import AttentionConfig
from braidlm.errors import InputError
from braidlm.interop.families.mamba_ssm import flattened, of_flattened
from braidlm.interop.names import entries
from tests.interop.mamba_ssm_truth import logits
from tests.interop.test_mamba_ssm import CONFIG, ENDS, MAMBA1, MAMBA2, SSM, D, V
from tests.tolerances import FORMS_FP64

HEADS = {"causal": True, "num_heads": 4, "num_heads_kv": 2, "head_dim": 6}
ROTATED = HEADS | {"rotary_emb_dim": 4, "rotary_emb_base": 500.0}
NO_BIAS = {"qkv_proj_bias": False, "out_proj_bias": False}
HYBRID = CONFIG | {"n_layer": 3, "attn_layer_idx": [1], "attn_cfg": ROTATED}
CASES: dict[str, dict[str, Any]] = {
    "mamba1, no positions": HYBRID | {"ssm_cfg": {}, "attn_cfg": HEADS | NO_BIAS},
    "mamba1, mlp": HYBRID | {"ssm_cfg": {}, "d_intermediate": 100},
    "mamba2": HYBRID | {"ssm_cfg": SSM},
    "mamba2, scaled": HYBRID | {"ssm_cfg": SSM, "attn_cfg": ROTATED | {"softmax_scale": 0.3}},
    "mamba2, mlp, own head": HYBRID
    | {"ssm_cfg": SSM, "d_intermediate": 128, "attn_layer_idx": [0, 2], "tie_embeddings": False},
    "mamba2, pairs": HYBRID | {"ssm_cfg": SSM, "attn_cfg": ROTATED | {"rotary_emb_interleaved": 1}},
}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    cfg = config["attn_cfg"]
    attention = {
        "norm.weight": (D,),
        "mixer.in_proj.weight": (48, D),
        "mixer.out_proj.weight": (D, 24),
    }
    attention |= {"mixer.in_proj.bias": (48,)} if cfg.get("qkv_proj_bias", True) else {}
    attention |= {"mixer.out_proj.bias": (D,)} if cfg.get("out_proj_bias", True) else {}
    scan = MAMBA2 if config["ssm_cfg"].get("layer") == "Mamba2" else MAMBA1
    mlp = {"norm2.weight": (D,), "mlp.fc1.weight": (256, D), "mlp.fc2.weight": (D, 128)}
    found: dict[str, tuple[int, ...]] = dict(ENDS)
    for i in range(config["n_layer"]):
        layer = attention if i in config["attn_layer_idx"] else scan
        layer = layer | (mlp if config.get("d_intermediate") else {})
        found |= {f"backbone.layers.{i}.{k}": s for k, s in layer.items()}
    return found | ({} if config.get("tie_embeddings", True) else {"lm_head.weight": (40, D)})


def write(folder, config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = {k: torch.randn(s, dtype=torch.float64) * 0.4 for k, s in shapes(config).items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return tensors


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_its_equations(tmp_path, case):
    config = CASES[case]
    theirs = {k: t.requires_grad_() for k, t in write(tmp_path / "a", config).items()}
    model = interop.load(tmp_path / "a", dtype=torch.float64).model
    ids = torch.randint(0, V, (2, 11))
    wanted = logits(theirs, config, ids)
    found = model.head(model(ids).hidden)
    torch.testing.assert_close(found, wanted, **FORMS_FP64._asdict())
    probe = torch.randn_like(wanted)
    (wanted * probe).sum().backward()
    (found * probe).sum().backward()
    ours = dict(model.named_parameters())
    flat = flattened(config, "")
    for entry in entries(of_flattened(flat, ""), model.spec, model):
        gradient = entry.gather(lambda name: gradient_of(theirs[name]))
        torch.testing.assert_close(ours[entry.ours].grad, gradient, **FORMS_FP64._asdict())


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_the_pattern_says_where_attention_lies(tmp_path):
    write(tmp_path / "a", CASES["mamba2, mlp, own head"])
    assert interop.load(tmp_path / "a").model.spec.pattern == "*-M-*-"


def test_every_rotated_width_is_kept(tmp_path):
    """26 of 46 as a share gives 25.99... channels, of which 25 would be rotated."""
    family = of_flattened({}, "")
    for turned, width in ((26, 46), (4, 6), (46, 46)):
        cfg = HEADS | {"head_dim": width, "rotary_emb_dim": turned}
        spec = family.spec(flattened(CASES["mamba1, mlp"] | {"attn_cfg": cfg}, ""))
        attention = spec.sublayers[2].branches[0]
        assert isinstance(attention, AttentionConfig)
        assert attention.rope_dim == turned


@pytest.mark.parametrize(
    ("changes", "attn", "reason"),
    [
        ({}, {"causal": False}, "attn_cfg.causal = False: .*allowed: True"),
        ({}, {"d_conv": 4}, "attn_cfg.d_conv = 4: no field of ours expresses it; allowed: 0"),
        ({}, {"mlp_dim": 256}, "attn_cfg.mlp_dim = 256: .*allowed: 0"),
        ({}, {"cross_attn": True}, "attn_cfg.cross_attn = True: no field of ours"),
        ({}, {"rotary_emb_dim": 8}, "rotary_emb_dim = 8: .*an even number up to head_dim = 6"),
        ({}, {"rotary_emb_dim": 3}, "rotary_emb_dim = 3: .*an even number"),
        ({}, {"head_dim": None, "num_heads": 5}, "attn_cfg.num_heads = 5: .*a divisor of 12"),
        ({}, {"num_heads_kv": 3}, "n_kv_heads = 3: must divide n_heads = 4"),
        ({"attn_layer_idx": [3]}, {}, r"attn_layer_idx = \[3\]: .*numbers from 0 to 2"),
        ({"d_intermediate": -1}, {}, "d_intermediate = -1: .*a whole number of at least 1"),
        ({"d_intermediate": 9, "fused_add_norm": False}, {}, "fused_add_norm = False: .*beside"),
        ({"attn_cfg": [1]}, None, r"attn_cfg = \[1\]: .*allowed: a table"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, changes, attn, reason):
    config = HYBRID | {"ssm_cfg": SSM, "attn_cfg": ROTATED | (attn or {})} | changes
    tmp_path.joinpath("config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=reason):
        interop.load(tmp_path)
