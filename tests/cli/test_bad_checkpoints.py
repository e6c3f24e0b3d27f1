"""`braid import` and `braid export` of what cannot be: one sentence, exit code 2, nothing made."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import contents
from tests.interop.folders import llama, llama_tensors


@pytest.fixture
def folder(tmp_path):
    return llama(tmp_path / "hf")


@pytest.fixture
def not_imported(refused, tmp_path):
    """Import, hold it to one sentence, and to leaving nothing behind."""

    def call(folder, *words, says):
        refused("import", folder, "--out", tmp_path / "run", *words, says=says)
        assert not (tmp_path / "run").exists()
        assert not list(tmp_path.glob(".run*"))

    return call


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


FIELDS = {
    "an unknown family": ({"model_type": "lama"}, ("'lama'", "known families: llama, ")),
    "no family": ({"model_type": None}, ("model_type = None", "known families")),
    "code of its own": (
        {"model_type": "mine", "auto_map": {"AutoConfig": "x.Config"}},
        ("code of its own, which is never run", "known families"),
    ),
    "another head": ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "an option we lack": ({"hidden_act": "tanh"}, "hidden_act = 'tanh': no field of ours"),
    "an unknown field": ({"clip_qkv": 8.0}, "clip_qkv = 8.0: no field of ours expresses it"),
    "an unknown rope": (
        {"rope_scaling": {"type": "dynamic"}},
        ("rope_type = 'dynamic'", "llama3, yarn"),
    ),
    "half of a rope": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "a size as text": ({"hidden_size": "12"}, "d_model = '12'"),
    "a size of zero": ({"intermediate_size": 0}, "d_ff"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    "a million layers": ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "n_kv_heads = 3"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_cannot_be_is_named(not_imported, folder, name):
    changes, says = FIELDS[name]
    edit(folder, **changes)
    not_imported(folder, says=says)


def test_a_folder_without_files_or_with_broken_ones(not_imported, folder, tmp_path):
    not_imported(tmp_path / "none", says="no such folder")
    (folder / "config.json").write_text("{")
    not_imported(folder, says="config.json is not readable as JSON")
    (folder / "config.json").write_text("[]")
    not_imported(folder, says="must be a JSON object")
    (folder / "config.json").unlink()
    not_imported(folder, says="config.json is missing")


def test_tensors_that_are_missing_extra_or_misshapen(not_imported, folder):
    file = folder / "model.safetensors"
    whole, name = llama_tensors(), "model.layers.1.self_attn.k_proj.weight"
    save_file({k: t for k, t in whole.items() if k != name}, file)
    not_imported(folder, says=f"'{name}' of shape (12, 12) is missing")
    save_file({**whole, name: torch.zeros(12, 13)}, file)
    not_imported(folder, says=f"'{name}' has shape (12, 13), expected (12, 12)")
    save_file({**whole, "model.layers.1.more": torch.zeros(3)}, file)
    not_imported(folder, says="'model.layers.1.more' of shape (3,) is unexpected")
    save_file({**whole, name: torch.zeros(12, 12, dtype=torch.int64)}, file)
    not_imported(folder, says="expected floats")


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_weights_that_are_cut_short(not_imported, folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    not_imported(folder, says="model.safetensors is cut short or no safetensors file")


def test_an_index_that_leads_nowhere(not_imported, folder):
    (folder / "model.safetensors").unlink()
    not_imported(folder, says="holds no weights")
    index = folder / "model.safetensors.index.json"
    for text, says in {
        "[]": "must hold a 'weight_map'",
        '{"weight_map": {"a": "part.safetensors"}}': "part.safetensors is missing",
        '{"weight_map": {"a": "../part.safetensors"}}': "is no name of a file beside it",
    }.items():
        index.write_text(text)
        not_imported(folder, says=says)


class _Bomb:
    def __reduce__(self):
        return (eval, ("1/0",))


def test_pickled_weights_need_leave_and_run_no_code(not_imported, refused, braid, folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(tensors, file)
    not_imported(folder, says=("is a pickle", "--weights-only-pickle"))
    leave = "--weights-only-pickle"
    assert braid("import", folder, "--out", tmp_path / "good", leave).code == 0
    stored = load_file(tmp_path / "good/checkpoints/step-00000000/weights.safetensors")
    assert torch.equal(stored["embedding.weight"], tensors["model.embed_tokens.weight"])
    torch.save({"a": _Bomb()}, file)
    said = refused("import", folder, "--out", tmp_path / "run", leave, says="holds")
    assert "eval, which is code; nothing of it was run" in said
    assert "weights_only" not in said
    file.write_bytes(pickle.dumps(_Bomb()))
    not_imported(folder, leave, says="is not readable as pickled tensors")
    torch.save([1, 2], file)
    not_imported(folder, leave, says="holds something else than named tensors")


def test_a_weight_that_is_no_number(not_imported, braid, refused, folder, tmp_path):
    whole, name = llama_tensors(), "model.layers.1.mlp.up_proj.weight"
    file = folder / "model.safetensors"
    whole[name][3, 4] = float("nan")
    save_file(whole, file)
    not_imported(folder, says=f"tensor '{name}' holds NaN or infinity")


class TestTokenizers:
    """What an import takes for the tokenizer, and what is said when there is none."""

    def test_one_that_cannot_be_read_or_is_too_large(self, not_imported, folder, tmp_path):
        (folder / "tokenizer.json").write_text("{")
        not_imported(folder, says=("is not a tokenizers JSON file", "--tokenizer none"))
        vocab = {"<s>": 0, **{f"w{i}": i for i in range(1, 40)}}
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}
        (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
        says = ("has 40 tokens, more than the model's 31", "--tokenizer none")
        not_imported(folder, says=says)
        not_imported(folder, "--tokenizer", "bytes", says="bytes has 259 tokens, more than")
        not_imported(folder, "--tokenizer", tmp_path / "no.json", says="cannot be read")

    def test_none_is_told_when_a_task_needs_one(self, braid, refused, folder, tmp_path):
        (folder / "tokenizer.json").write_text("{")
        run = tmp_path / "run"
        made = braid("import", folder, "--out", run, "--tokenizer", "none")
        assert "tokenizer: none; tasks in text need one" in made.out
        assert not (run / "hf" / "tokenizer.json").exists()
        says = ("the folder holds none", "'braid import' takes one by --tokenizer NAME")
        refused("eval", run, says=says)
        refused("generate", run, "--prompt", "a", says=says)
        assert braid("conform", run, "--laws", "batch", "--lengths", "5").code == 0

    def test_one_that_is_given_travels(self, braid, folder, tmp_path):
        vocab = {"<s>": 0, "a": 1, "b": 2}
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}
        (tmp_path / "other").mkdir()
        given = tmp_path / "other" / "tokenizer.json"
        given.write_text(json.dumps({"model": model}))
        for i, name in enumerate((given, f"hf:{given.parent}")):
            run = tmp_path / f"run{i}"
            made = braid("import", folder, "--out", run, "--tokenizer", name)
            assert f"tokenizer: hf:{run / 'hf'}" in made.out
            assert (run / "hf" / "tokenizer.json").read_bytes() == given.read_bytes()

    def test_bytes_come_back_from_an_export(self, braid, tmp_path):
        """No file says so, and 259 ids of another tokenizer would be read as bytes."""
        folder = llama(tmp_path / "wide", vocab_size=300)
        braid("import", folder, "--out", tmp_path / "run", "--tokenizer", "bytes")
        for form in ("hf", "braid-hf"):
            out = tmp_path / form
            assert braid("export", tmp_path / "run", "--out", out, "--format", form).code == 0
            again = braid("import", out, "--out", tmp_path / f"{form}-run")
            assert "tokenizer: bytes" in again.out


class TestConforming:
    """`braid conform` on folders that transformers would read."""

    pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

    def test_a_folder_that_is_neither_kind(self, refused, folder):
        (folder / "config.json").write_text('{"hidden_size": 12}')
        refused("conform", folder, says=("has no checkpoint", "'braid import'"))
        refused("export", folder, "--out", folder / "x", says="'braid import'")

    def test_weights_that_cannot_be(self, refused, folder):
        pytest.importorskip("transformers")
        whole, name = llama_tensors(), "model.layers.1.mlp.up_proj.weight"
        file = folder / "model.safetensors"
        save_file({**whole, name: torch.zeros(7, 12)}, file, {"format": "pt"})
        says = f"tensor '{name}' has shape (7, 12), expected (20, 12)"
        refused("conform", folder, says=says)
        whole[name][0, 0] = float("inf")
        save_file(whole, file, {"format": "pt"})
        refused("conform", folder, says=f"weight '{name}' holds NaN or infinity")
        file.unlink()
        torch.save({"a": _Bomb()}, folder / "pytorch_model.bin")
        refused("conform", folder, says="holds more than tensors, and nothing of it was run")

    def test_a_billion_layers(self, refused, folder):
        pytest.importorskip("transformers")
        edit(folder, num_hidden_layers=10**9)
        says = "num_hidden_layers = 1000000000: allowed are at most 10000"
        refused("conform", folder, says=says)
        refused("conform", folder / "config.json", "--random-weights", says=says)


def test_an_import_takes_a_new_folder_and_a_known_dtype(refused, folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("1")
    refused("import", folder, "--out", tmp_path / "run", says="is not empty")
    assert contents(tmp_path / "run") == {"mine": b"1"}
    refused("import", folder, "--out", tmp_path / "new", "--dtype", "int8", says="dtype = 'int8'")


def test_an_export_that_cannot_be(braid, refused, folder, tmp_path):
    assert braid("import", folder, "--out", tmp_path / "run").code == 0
    run, out = tmp_path / "run", tmp_path / "out"
    refused("export", run, "--out", out, "--family", "lama", says="did you mean 'llama'?")
    refused("export", run, "--out", out, "--format", "onnx", says="allowed: hf, braid-hf")
    refused("export", run, "--out", out, "--shard-bytes", 0, says="shard-bytes = 0")
    says = ("mamba2: sublayer 0 (*", "--format braid-hf")
    refused("export", run, "--out", out, "--family", "mamba2", says=says)
    refused("export", tmp_path / "none", "--out", out, says="no such folder")
    refused("export", run, "--out", run, says="is there already")
    weights = run / "checkpoints/step-00000000/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused("export", run, "--out", out, says="bytes instead of")
    assert not out.exists()
