"""Zamba and Zamba2, whose blocks are shared, in and out, without their library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from braidlm import interop
from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.arch.recipe import load_spec
from braidlm.errors import InputError
from braidlm.interop.choose import for_spec
from braidlm.interop.compare import difference
from braidlm.interop.families import FAMILIES
from braidlm.model import HybridLM

ZAMBA: dict[str, Any] = {
    "model_type": "zamba",
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 5,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "hybrid"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mamba_d_state": 3,
}
ZAMBA2: dict[str, Any] = {
    **{k: v for k, v in ZAMBA.items() if k != "num_key_value_heads"},
    "model_type": "zamba2",
    "num_mem_blocks": 2,
    "n_mamba_heads": 4,
    "adapter_rank": 3,
    "use_shared_attention_adapter": True,
}
EACH = {"zamba": ZAMBA, "zamba2": ZAMBA2}
N_BLOCKS = {"zamba": 1, "zamba2": 2}
LAST = {"zamba": (1, 4), "zamba2": (1, 4)}
"""Layers of the first and of the last use of a block."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "zamba-7b": {"vocab_size": 32000, "hidden_size": 3712, "num_hidden_layers": 76},
    "zamba2-2.7b": {
        "vocab_size": 32000,
        "hidden_size": 2560,
        "num_hidden_layers": 54,
        "n_mamba_heads": 80,
        "num_mem_blocks": 2,
    },
}
"""What the files of the published models say beside the defaults of their classes."""
ASIDE = {"shared": True, "output": "next_input"}
ATTENTION = {
    "kind": "attention",
    "n_heads": 4,
    "head_dim": 8,
    "softmax_scale": 0.5,
    "position": "none",
    "input": "hidden+embedding",
    **ASIDE,
}
MLP = {
    "kind": "mlp",
    "d_ff": 20,
    "activation": "gelu",
    "input": "handed",
    "use_projection": True,
    **ASIDE,
}
SIZES = {"d_model": 16, "vocab_size": 31}


def folder(place: Path, config: dict[str, Any], **changes: Any) -> Path:
    """Write a random model of this configuration, norms apart: they begin as ones."""
    family = FAMILIES[config["model_type"]]
    interop.save(HybridLM(family.spec({**config, **changes})), place, family=family.model_type)
    return place


def tensors(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def moved(name: str, home: int, other: int) -> str:
    return name.replace(f".layers.{home}.shared_transf", f".layers.{other}.shared_transf")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_defaults_of_a_class_are_the_published_model(name):
    """And our recipe of it is written as a file that reads back as the same."""
    family = FAMILIES["zamba2" if name.startswith("zamba2") else "zamba"]
    spec = load_spec(f"recipes/published/{name}.toml")
    found = family.spec(PUBLISHED[name])
    assert difference(spec, found) is None
    assert cost(found, 1).n_params == cost(spec, 1).n_params
    chosen, written = for_spec(spec)
    assert chosen is family
    assert difference(spec, family.spec(written)) is None


def test_layers_return_after_a_period_behind_the_third():
    config = {**ZAMBA, "layers_block_type": None, "num_hidden_layers": 10}
    assert FAMILIES["zamba"].spec(config).pattern == "(SSAFSSS)2"
    config |= {"attn_layer_period": 3, "attn_layer_offset": 1}
    assert FAMILIES["zamba"].spec(config).pattern == "SSAFSSAFSSSAFSSS"


@pytest.mark.parametrize("family", EACH)
def test_a_block_is_stored_once_and_read_from_any_of_its_uses(tmp_path, family):
    """Older transformers kept the last use of each block, and pickles hold them all."""
    config = EACH[family]
    stored = tensors(folder(tmp_path / "a", config))
    assert sum("self_attn.q_proj" in name for name in stored) == N_BLOCKS[family]
    expected = interop.load(tmp_path / "a").model.state_dict()
    last = {moved(k, *LAST[family]): t for k, t in stored.items()}
    assert last.keys() != stored.keys()
    save_file(last, tmp_path / "a" / "model.safetensors")
    assert same(interop.load(tmp_path / "a").model.state_dict(), expected)
    interop.import_run(tmp_path / "a", tmp_path / "run")
    interop.export_run(tmp_path / "run", tmp_path / "b")
    assert same(tensors(tmp_path / "b"), stored)
    every = {**{k: t.clone() for k, t in last.items()}, **stored}
    save_file(every, tmp_path / "a" / "model.safetensors")
    loaded = interop.load(tmp_path / "a")
    assert set(loaded.skipped) == last.keys() - stored.keys()
    assert same(loaded.model.state_dict(), expected)


@pytest.mark.parametrize("family", EACH)
def test_another_tensor_at_another_use_is_refused(tmp_path, family):
    """transformers would untie the two; a shared letter cannot."""
    stored = tensors(folder(tmp_path / "a", EACH[family]))
    first = next(name for name in stored if "self_attn.q_proj" in name)
    other = moved(first, *LAST[family])
    for copy in (stored[first] + 1, stored[first][1:], stored[first].double()):
        save_file({**stored, other: copy.clone()}, tmp_path / "a" / "model.safetensors")
        with pytest.raises(InputError, match=f"'{other}' differs from '{first}', whose weights"):
            interop.load(tmp_path / "a")


@pytest.mark.parametrize("family", EACH)
def test_with_an_untied_head_every_use_is_written(tmp_path, family):
    """transformers then ties nothing, the shared blocks included."""
    config = EACH[family]
    place = folder(tmp_path / "a", config, tie_word_embeddings=False)
    stored, n_uses = tensors(place), config["layers_block_type"].count("hybrid")
    for part in ("self_attn.q_proj", "feed_forward.down_proj", "pre_ff_layernorm"):
        found = {k: t for k, t in stored.items() if part in k}
        assert len(found) == n_uses
        blocks = {tuple(t.flatten().tolist()) for t in found.values()}
        assert len(blocks) == (1 if "norm" in part else N_BLOCKS[family])
    interop.import_run(place, tmp_path / "run")
    interop.export_run(tmp_path / "run", tmp_path / "b", max_shard_bytes=3000)
    written = {
        k: t for x in (tmp_path / "b").glob("*.safetensors") for k, t in load_file(x).items()
    }
    assert same(written, stored)


@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize("part", ["self_attn.k_proj", "linear", "mamba.in_proj"])
def test_tensors_that_do_not_fit_are_refused(tmp_path, family, part):
    stored = tensors(folder(tmp_path / "a", EACH[family]))
    name = next(name for name in stored if f".{part}." in name)

    def refusal(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, tmp_path / "a" / "model.safetensors")
        with pytest.raises(InputError) as error:
            interop.load(tmp_path / "a")
        return str(error.value)

    rest = {k: t for k, t in stored.items() if k != name}
    assert f"tensor '{name}' of shape {tuple(stored[name].shape)} is missing" in refusal(rest)
    wide = {**stored, name: torch.zeros(3, 2)}
    assert f"tensor '{name}' has shape (3, 2), expected" in refusal(wide)
    extra = name.replace(".layers.", ".layers.9")
    assert f"tensor '{extra}' of shape (2,) is unexpected" in refusal(
        {**stored, extra: torch.zeros(2)}
    )


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        (
            "zamba",
            {"attention_hidden_size": 16},
            "attention_hidden_size = 16: .*allowed: 32, twice",
        ),
        ("zamba", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new': .*allowed: 'gelu'"),
        ("zamba", {"hidden_mamba_act": "gelu"}, "hidden_mamba_act = 'gelu': .*allowed: 'silu'"),
        ("zamba", {"n_mamba_heads": 3}, r"n_groups = 3: must divide d_inner = 32"),
        ("zamba", {"layers_block_type": ["hybrid"] * 4}, "num_hidden_layers = 5: .*allowed: 4"),
        ("zamba", {"layers_block_type": ["attention"] * 5}, "layers_block_type = 'attention': "),
        ("zamba", {"num_mem_blocks": 1}, "num_mem_blocks = 1: no field of ours"),
        ("zamba", {"use_mem_rope": True}, "use_mem_rope = True: no field of ours"),
        ("zamba2", {"num_mem_blocks": 5}, "num_mem_blocks = 5: .*allowed: 1 to 4"),
        ("zamba2", {"num_mem_blocks": 0}, "num_mem_blocks = 0: .*at least 1"),
        ("zamba2", {"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-06: .*allowed: 1e-05"),
        ("zamba2", {"adapter_rank": 0}, "adapter_rank = 0: .*at least 1"),
        ("zamba2", {"num_key_value_heads": 2}, "num_key_value_heads = 2: .*as many as fill 32 ch"),
        ("zamba2", {"attention_head_dim": 4}, "num_attention_heads = 4: .*as many as fill 32 ch"),
        ("zamba2", {"use_mem_rope": 1}, "use_mem_rope = 1: .*allowed: False, True"),
        (
            "zamba2",
            {"use_mem_rope": True, "use_long_context": True},
            "use_long_context = True: .*allowed: False, or use_mem_rope = False",
        ),
        (
            "zamba2",
            {"use_mem_rope": True, "rope_parameters": {"rope_type": "dynamic"}},
            "rope_parameters.rope_type = 'dynamic'",
        ),
        (
            "zamba2",
            {"use_mem_rope": True, "partial_rotary_factor": 0.5},
            "partial_rotary_factor = 0.5: .*all channels of a head",
        ),
        ("zamba2", {"hybrid_layer_ids": [1, 2]}, r"hybrid_layer_ids = \[1, 2\]: .*\[1, 3, 4\], as"),
        ("zamba2", {"n_mamba_heads": 5}, "mamba_headdim = 6: .*allowed: 32 / n_mamba_heads"),
        ("zamba2", {"mamba_headdim": 4}, "mamba_headdim = 4: .*allowed: 32 / n_mamba_heads"),
        ("zamba2", {"time_step_limit": [0.0, 1.0]}, r"time_step_limit = \[0.0, 1.0\]: no field"),
        ("zamba2", {"sliding_window": 7}, "sliding_window = 7: no field of ours"),
    ],
)
def test_a_setting_that_we_do_not_compute_is_refused(family, changes, reason):
    with pytest.raises(InputError, match=reason):
        FAMILIES[family].spec({**EACH[family], **changes})


def declared(pattern: str, **letters: dict[str, Any]) -> Spec:
    mixers = {"S": {"n_groups": 2}, "A": ATTENTION, "F": MLP} | letters
    used = {k: v for k, v in mixers.items() if k in pattern}
    return Spec.of({"pattern": pattern, "mixers": used, **SIZES})


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (declared("S2"), "zamba: transformers runs no such model with fewer than 2 shared blocks"),
        (declared("SAFS"), "zamba: transformers runs no such model with fewer than 2 shared"),
        (
            declared("SAFSBGS", B=ATTENTION, G=MLP),
            r"zamba: sublayer 4 \(B G S \.\.\.\) begins no layer of it: S, AFS",
        ),
        (declared("(SAF)2S"), None),
        (
            declared("(SAF)2S", A={**ATTENTION, "softmax_scale": 0.3}),
            r"sublayer 1 \(A\): softmax_s",
        ),
        (
            declared("(SAF)2S", A={**ATTENTION, "input": "hidden"}),
            r"sublayer 1 \(A\): input = 'hid",
        ),
        (declared("(SAF)2S", F={**MLP, "lora_rank": 2}), r"sublayer 2 \(F\): lora_rank = 2"),
        (declared("(SAF)2S", F={**MLP, "activation": "silu"}), None),
        (declared("(SAF)2S", F={**MLP, "input": "hidden"}), r"sublayer 2 \(F\): input = 'hidden'"),
        (
            declared("(SAF)2S", S={"n_groups": 2, "dt_bc_norm": "rms"}),
            r"sublayer 0 \(S\): dt_bc_norm = 'rms'",
        ),
    ],
)
def test_what_zamba_expresses(spec, reason):
    if reason is None:
        family, written = for_spec(spec)
        assert family.model_type == "zamba"
        assert difference(spec, family.spec(json.loads(json.dumps(written)))) is None
        return
    with pytest.raises(InputError, match=reason):
        for_spec(spec, "zamba")


MAMBA2 = {"n_heads": 4, "head_dim": 8, "d_state": 3, "dt_limit_min": 0.001}
ADAPTED = {**MLP, "lora_rank": 3}


def zamba2(pattern: str, **letters: dict[str, Any]) -> Spec:
    mixers = {"M": MAMBA2, "A": ATTENTION, "F": ADAPTED, "B": ATTENTION, "G": ADAPTED} | letters
    return Spec.of(
        {"pattern": pattern, "mixers": {k: mixers[k] for k in mixers if k in pattern}} | SIZES
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (zamba2("M2"), "zamba2: transformers runs no such model with fewer than 1 shared block"),
        (zamba2("MAFM"), None),
        (zamba2("AFMBGMAFM"), None),
        (
            zamba2("xyMvwMxyM", x=ATTENTION, y=ADAPTED, v=ATTENTION, w=ADAPTED),
            None,
        ),
        (zamba2("AFMBGMBGM"), r"sublayer 6: its 2 shared blocks do not take turns"),
        (
            zamba2("AFMBFM", F={**ADAPTED, "shared": True}),
            r"sublayer 3 \(B F M \.\.\.\) begins no layer of it: M, AFM, BGM",
        ),
        (
            zamba2("AFMBGMAFM", G={**ADAPTED, "lora_rank": 2}),
            r"sublayer 4 \(G\): lora_rank = 2; only 3 can be said",
        ),
        (zamba2("AFMAFM", F=MLP), "F.lora_rank = 0: adapter_rank of theirs is at least 1"),
        (
            zamba2("AFMAFM", A={**ATTENTION, "lora_rank": 3, "n_kv_heads": 2}),
            "A.lora_rank = 3: adapters of theirs are 2 d_model channels wide, which n_kv_heads = 2",
        ),
        (zamba2("AFMAFM", A={**ATTENTION, "n_kv_heads": 2}), None),
        (
            zamba2("AFMBGMAFM", B={**ATTENTION, "position": "rope"}),
            r"sublayer 3 \(B\): position = 'rope'; only 'none' can be said",
        ),
        (zamba2("AFM", F={**ADAPTED, "in_bias": True}), r"sublayer 1 \(F\): .*in_bias = True"),
        (
            zamba2("AFM", M={**MAMBA2, "conv_bias": False}),
            r"sublayer 2 \(M\): conv_bias = False; only True can be said",
        ),
        (
            zamba2("AFM", M={**MAMBA2, "n_heads": 3}),
            "inner width 24 is no whole multiple of d_model",
        ),
    ],
)
def test_what_zamba2_expresses(spec, reason):
    if reason is None:
        family, written = for_spec(spec)
        assert family.model_type == "zamba2"
        assert difference(spec, family.spec(json.loads(json.dumps(written)))) is None
        return
    with pytest.raises(InputError, match=reason):
        for_spec(spec, "zamba2")


def test_a_norm_of_another_epsilon_is_no_zamba2():
    spec = Spec.of({**zamba2("AFM").model_dump(), "norm_eps": 1e-6})
    with pytest.raises(InputError, match="norm_eps = 1e-06; only 1e-05 can be said"):
        for_spec(spec, "zamba2")
