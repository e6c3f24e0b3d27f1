"""Checkpoints in the form of the mamba_ssm package, made of the names that it publishes."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from braidlm import interop
from braidlm.errors import InputError

D, V, N = 12, 35, 2
ENDS = {"backbone.embedding.weight": (40, D), "backbone.norm_f.weight": (D,)}
MAMBA2 = {
    "norm.weight": (D,),
    "mixer.in_proj.weight": (2 * 24 + 2 * 2 * 5 + 4, D),
    "mixer.conv1d.weight": (24 + 2 * 2 * 5, 1, 4),
    "mixer.conv1d.bias": (24 + 2 * 2 * 5,),
    "mixer.A_log": (4,),
    "mixer.D": (4,),
    "mixer.dt_bias": (4,),
    "mixer.norm.weight": (24,),
    "mixer.out_proj.weight": (D, 24),
}
MAMBA1 = {
    "norm.weight": (D,),
    "mixer.in_proj.weight": (48, D),
    "mixer.conv1d.weight": (24, 1, 4),
    "mixer.conv1d.bias": (24,),
    "mixer.x_proj.weight": (1 + 2 * 16, 24),
    "mixer.dt_proj.weight": (24, 1),
    "mixer.dt_proj.bias": (24,),
    "mixer.A_log": (24, 16),
    "mixer.D": (24,),
    "mixer.out_proj.weight": (D, 24),
}
CONFIG: dict[str, Any] = {
    "d_model": D,
    "n_layer": N,
    "vocab_size": V,
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}
SSM = {"layer": "Mamba2", "headdim": 6, "d_state": 5, "ngroups": 2}
CASES = {
    "mamba1": (CONFIG | {"ssm_cfg": {}}, MAMBA1, "mamba"),
    "mamba2": (CONFIG | {"ssm_cfg": SSM}, MAMBA2, "mamba2"),
}


def write(folder, config, layer, *, pickled=False) -> dict[str, torch.Tensor]:
    shapes = ENDS | {f"backbone.layers.{i}.{k}": s for i in range(N) for k, s in layer.items()}
    tensors = {k: torch.randn(s) * 0.3 for k, s in shapes.items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(tensors | {"lm_head.weight": tensors["backbone.embedding.weight"]}, folder / BIN)
    else:
        save_file(tensors, folder / "model.safetensors")
    return tensors


BIN = "pytorch_model.bin"


@pytest.mark.parametrize("case", CASES)
def test_its_own_form_is_the_same_model_as_that_of_transformers(tmp_path, case):
    """Read, written as transformers has it, and judged there; the vocabulary is padded to 40."""
    transformers = pytest.importorskip("transformers", minversion="5.15.1")
    transformers.utils.logging.disable_progress_bar()
    config, layer, family = CASES[case]
    tensors = write(tmp_path / "a", config, layer, pickled=True)
    loaded = interop.load(tmp_path / "a", weights_only_pickle=True)
    assert loaded.model.spec.vocab_size == 40
    assert loaded.skipped == ("lm_head.weight",)
    assert interop.save(loaded.model, tmp_path / "b") == family
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()
    named = {k.replace("embeddings", "embedding"): t for k, t in theirs.state_dict().items()}
    assert all(torch.equal(named[k], t) for k, t in tensors.items())
    ids = torch.randint(0, V, (2, 19))
    with torch.no_grad():
        mine = loaded.model.head(loaded.model(ids).hidden)
        torch.testing.assert_close(mine, theirs(input_ids=ids).logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_what_a_recurrence_is_sensitive_to_is_never_made_narrower(tmp_path, case):
    config, layer, _ = CASES[case]
    write(tmp_path / "a", config, layer)
    interop.import_run(tmp_path / "a", tmp_path / "run", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "run/checkpoints/step-00000000/weights.safetensors")
    wide = {name.rpartition(".")[2] for name, t in stored.items() if t.dtype == torch.float32}
    assert wide == {"A_log", "D", "dt_bias"}
    assert {t.dtype for t in stored.values()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "inner", "reason"),
    [
        ({}, {"layer": "Mamba3"}, r"ssm_cfg.layer = 'Mamba3': .*allowed: Mamba1, Mamba2"),
        ({"attn_layer_idx": [1]}, {}, "'attn_cfg.num_heads' is missing|attn_cfg.causal = False"),
        ({"d_intermediate": 64}, {}, "tensor 'backbone.layers.0.norm2.weight' .* is missing"),
        ({"rms_norm": False}, {}, "rms_norm = False"),
        ({}, {"d_ssm": 6}, "ssm_cfg.d_ssm = 6: no field of ours expresses it"),
        ({}, {"headdim": 7}, "ssm_cfg.headdim = 7: .*a divisor of 24"),
        ({"ssm_cfg": [1]}, None, r"ssm_cfg = \[1\]: .*allowed: a table"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, changes, inner, reason):
    config = CONFIG | {"ssm_cfg": SSM | (inner or {})} | changes
    write(tmp_path / "a", config, MAMBA2)
    with pytest.raises(InputError, match=reason):
        interop.load(tmp_path / "a")
