"""`braid import` and `braid conform` on folders in several files, and with code beside them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.interop.folders import llama


@pytest.fixture
def folder(tmp_path):
    return llama(tmp_path / "hf")


def part(folder, form="safetensors"):
    """Part the weights into two files with an index; return the second."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(whole)
    files = [folder / f"{end}.{form}" for end in ("a", "b")]
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    for file, held in zip(files, parts, strict=True):
        tensors = {name: whole[name] for name in held}
        torch.save(tensors, file) if form == "bin" else save_file(tensors, file)
    places = {name: f.name for f, held in zip(files, parts, strict=True) for name in held}
    stem = "pytorch_model" if form == "bin" else "model"
    index = {"weight_map": places}
    (folder / f"{stem}.{form}.index.json").write_text(json.dumps(index))
    return files[1]


def weights(run):
    return load_file(run / "checkpoints/step-00000000/weights.safetensors")


def test_one_of_several_files_is_cut_short(braid, refused, folder, tmp_path):
    last = part(folder)
    assert braid("import", folder, "--out", tmp_path / "good").code == 0
    last.write_bytes(last.read_bytes()[:-40])
    refused("import", folder, "--out", tmp_path / "run", says="b.safetensors is cut short")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "hf"]


def test_several_pickles_need_leave_too(braid, refused, folder, tmp_path):
    expected = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    part(folder, "bin")
    run = tmp_path / "run"
    refused("import", folder, "--out", run, says=("a.bin is a pickle", "--weights-only-pickle"))
    assert not run.exists()
    assert braid("import", folder, "--out", run, "--weights-only-pickle").code == 0
    assert torch.equal(weights(run)["embedding.weight"], expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": "\xe9"}', "is not readable as JSON"),
        (b"[" * 100_000, "is not readable as JSON"),
        (b'{"model_type": "llama", "vocab_size": -3}', "'num_hidden_layers' is missing"),
    ],
)
def test_a_configuration_that_is_no_text_or_has_no_end(refused, folder, tmp_path, text, says):
    (folder / "config.json").write_bytes(text)
    refused("import", folder, "--out", tmp_path / "run", says=("config.json", says))
    assert not (tmp_path / "run").exists()


def test_a_name_of_the_hub_is_not_fetched(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch = "'hf download tiiuae/falcon-mamba-7b --local-dir DIR' does"
    refused("import", "tiiuae/falcon-mamba-7b", "--out", tmp_path / "run", says=fetch)
    said = refused("import", tmp_path / "none", "--out", tmp_path / "run", says="no such folder")
    assert "hf download" not in said


def test_weights_that_say_they_are_huge(refused, folder, tmp_path):
    (folder / "model.safetensors").write_bytes((10**15).to_bytes(8, "little") + b"{}")
    refused("import", folder, "--out", tmp_path / "run", says="model.safetensors is cut short")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_code_beside_a_known_family_is_neither_run_nor_taken_along(braid, folder, tmp_path):
    """Released folders of known families often bring the code that came before their class."""
    marker = tmp_path / "it ran"
    (folder / "mine.py").write_text(f"open({str(marker)!r}, 'w')\nclass Mine: pass\n")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": names}))
    run, out = tmp_path / "run", tmp_path / "out"
    assert braid("import", folder, "--out", run).code == 0
    assert braid("export", run, "--out", out).code == 0
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert not [*run.rglob("*.py"), *out.rglob("*.py")]
    pytest.importorskip("transformers")
    words = ("--laws", "batch", "--lengths", "5")
    assert braid("conform", folder, *words).code == 0
    assert not marker.exists()
