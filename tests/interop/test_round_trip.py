"""From a foreign folder into a run and out again, without the library that it is for."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from braidlm import interop
from braidlm.arch import Spec
from braidlm.checkpoint import load_model
from braidlm.errors import InputError
from braidlm.interop.choose import for_spec
from braidlm.interop.names import Entry
from tests.interop.folders import llama, llama_tensors

TOKENIZER = {
    "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "a": 2}, "unk_token": "a"}
}
BRAID = {"n_heads": 2, "head_dim": 6, "d_state": 5}


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_what_came_along_goes_along(tmp_path):
    """Tokenizer, generation settings, ids and lengths; code does not."""
    folder = llama(tmp_path / "a", max_position_embeddings=77, auto_map={"AutoModel": "x.Y"})
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "modeling_x.py").write_text("raise SystemExit(3)")
    made = interop.import_run(folder, tmp_path / "run")
    _, recipe = load_model(tmp_path / "run")
    assert recipe.data.tokenizer == made["tokenizer"] == f"hf:{tmp_path / 'run' / 'hf'}"
    assert config(tmp_path / "run")["data"]["tokenizer"] == "run:hf"
    found = interop.export_run(tmp_path / "run", tmp_path / "b")
    names = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert set(found["files"]) == names
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        *names,
        *("config.json", "model.safetensors"),
    }
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (folder / name).read_bytes()
    new = config(tmp_path / "b")
    assert (new["bos_token_id"], new["eos_token_id"]) == (1, 2)
    assert new["max_position_embeddings"] == 77
    assert "auto_map" not in new


def test_another_form_takes_nothing_of_an_imported_configuration_but_ids(tmp_path):
    interop.import_run(llama(tmp_path / "a"), tmp_path / "run")
    interop.export_run(tmp_path / "run", tmp_path / "b", format="braid-hf")
    new = config(tmp_path / "b")
    assert new["model_type"] == "braid"
    assert new["eos_token_id"] == 2
    assert "num_attention_heads" not in new
    assert interop.load(tmp_path / "b").model.spec == interop.load(tmp_path / "a").model.spec


def test_each_tensor_keeps_its_dtype(tmp_path):
    folder = llama(tmp_path / "a")
    tensors = {k: t.bfloat16() if "proj" in k else t for k, t in llama_tensors().items()}
    save_file(tensors, folder / "model.safetensors")
    made = interop.import_run(folder, tmp_path / "run")
    assert made["dtypes"] == ["bfloat16", "float32"]
    interop.export_run(tmp_path / "run", tmp_path / "b")
    back = load_file(tmp_path / "b" / "model.safetensors")
    assert {k: t.dtype for k, t in back.items()} == {k: t.dtype for k, t in tensors.items()}
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)


def test_a_tied_head_that_is_stored_twice_is_passed_over_by_name(tmp_path):
    folder = llama(tmp_path / "a", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    with pytest.raises(
        InputError, match=r"'lm_head.weight' differs from 'model.embed_tokens.weight'"
    ):
        interop.load(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    loaded = interop.load(folder)
    assert loaded.skipped == ("lm_head.weight",)
    assert loaded.model.lm_head.weight is loaded.model.embedding.weight
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.model.embedding.weight, stored["model.embed_tokens.weight"])


def test_tensors_that_are_listed_are_passed_over_and_no_others(tmp_path):
    folder = llama(tmp_path / "a")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    save_file(llama_tensors() | extra, folder / "model.safetensors")
    assert interop.load(folder).skipped == tuple(extra)


def test_the_loaded_model_is_the_one_that_the_run_holds(tmp_path):
    folder = llama(tmp_path / "a")
    before = torch.random.get_rng_state()
    model = interop.load(folder).model
    assert torch.equal(before, torch.random.get_rng_state())
    interop.import_run(folder, tmp_path / "run")
    other, _ = load_model(tmp_path / "run")
    assert not model.training
    assert model.spec == other.spec
    buffers = dict(other.named_buffers())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(tensor, {**dict(other.named_parameters()), **buffers}[name]), name


@pytest.mark.parametrize(
    ("pattern", "fields", "family"),
    [
        ("(*-)2", {}, "llama"),
        ("(*-)2", {"mixers": {"*": {"qk_norm": "head"}}}, "qwen3"),
        ("MM", {"mixers": {"M": BRAID}, "d_model": 12}, "mamba2"),
        ("M-*-M-", {"mixers": {"M": {**BRAID, "n_heads": 4}}, "d_model": 12}, "bamba"),
        ("({M*}-)2", {"fusion": {"combine": "add", "norm": "none"}}, "falcon_h1"),
        ("a-", {"mixers": {"a": {"kind": "attention"}}}, "llama"),
        ("(*-)2", {"mup_base_width": 64, "init_std": 0.3}, "llama"),
    ],
)
def test_a_model_of_ours_finds_its_family(pattern, fields, family):
    """Letters and initial weights decide nothing of the function."""
    spec = Spec.of({"pattern": pattern, "d_model": 64, "vocab_size": 31, **fields})
    if fields.get("mup_base_width"):
        assert for_spec(spec)[0].model_type == family
    found, written = for_spec(spec)
    assert found.model_type == family
    again = found.spec(written)
    assert [s.branches for s in again.sublayers] == [s.branches for s in spec.sublayers]


@pytest.mark.parametrize(
    ("pattern", "fields", "reason"),
    [
        ("M-*-W-", {}, r"sublayer 4 \(W\): window = 512"),
        ("*-*-**", {}, r"llama: sublayer 4 \(\* \* \.\.\.\) begins no layer of it"),
        ("*-", {"mixers": {"*": {"sink_logit": True}}}, r"sublayer 0 \(\*\): sink_logit = True"),
        ("{M*}-", {"fusion": {"combine": "gate"}}, r"sublayer 0 \(\{M\*\}\): fusion"),
    ],
)
def test_a_model_that_no_family_expresses_names_what_and_where(pattern, fields, reason):
    spec = Spec.of({"pattern": pattern, "d_model": 64, "vocab_size": 31, **fields})
    with pytest.raises(InputError, match=reason) as refusal:
        for_spec(spec)
    assert "'--format braid-hf' holds any declaration" in str(refusal.value)


def test_a_family_that_is_asked_for_says_what_it_cannot():
    spec = Spec.of({"pattern": "*-", "d_model": 64, "vocab_size": 31, "logits_multiplier": 2.0})
    with pytest.raises(InputError, match=r"^llama: logits_scale = 2\.0; only 1\.0 can be said"):
        for_spec(spec, "llama")
    assert for_spec(spec)[0].model_type == "granitemoehybrid"
    narrow = {"mixers": {"M": {"width": 48, "head_dim": 12}}}
    spec = Spec.of({"pattern": "M", "d_model": 64, "vocab_size": 31, **narrow})
    with pytest.raises(InputError, match="inner width 48 is no whole multiple of d_model = 64"):
        for_spec(spec, "mamba2")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms())
def test_rows_in_any_order_come_back(n_rows, random):
    total = sum(n_rows)
    order = random.sample(range(total), total)
    shapes = {str(i): (n, 1, 2) for i, n in enumerate(n_rows)}
    theirs = {name: torch.randn(shape) for name, shape in shapes.items()}
    entry = Entry("x", (total, 2), shapes, order)
    ours = entry.gather(theirs.__getitem__)
    stacked = torch.cat(list(theirs.values()))
    assert all(torch.equal(ours[i], stacked[order[i], 0]) for i in range(total))
    back = entry.scatter(ours)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)
