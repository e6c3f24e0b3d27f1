"""A GGUF file on the command line: imported, trained on, held to the laws, or refused."""

from __future__ import annotations

import json

import gguf
import pytest

from braidlm.data.tokenizer import load_tokenizer
from tests.gguf.files import finish, weights, write
from tests.gguf.test_tokenizer import keys_of, trained, wide


@pytest.fixture
def file(tmp_path):
    keys = keys_of(trained("smollm"), "smollm")
    q8 = gguf.GGMLQuantizationType.Q8_0
    return write(tmp_path / "tiny.gguf", weights() | wide(340), kind=q8, keys=keys)


def test_every_command_takes_an_imported_file(braid, file, tmp_path):
    made = braid("import", file, "--out", tmp_path / "run", "--json")
    assert made.code == 0
    assert json.loads(made.out)["tokenizer"] == f"hf:{tmp_path / 'run' / 'hf'}"
    said = braid("generate", tmp_path / "run", "--prompt", "the", "--max-new-tokens", 3, "--json")
    (prompt,) = (c["prompt_tokens"] for c in json.loads(said.out)["completions"])
    assert prompt[0] == 0
    assert braid("eval", tmp_path / "run", "--limit", 1).code == 0
    assert braid("conform", file, "--laws", "causality", "--lengths", "9").code == 0
    assert braid("conform", file, "--random-weights", "--laws", "causality").code == 0


def test_a_training_begins_with_a_file_and_goes_on_without_it(braid, file, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"the {i} " * 40}) + "\n" for i in range(40)))
    data = f"""
[data]
seq_len = 32
cache_dir = "{tmp_path / "cache"}"
[[data.sources]]
kind = "text"
path = "{corpus}"
[train]
steps = 2
batch_size = 2
checkpoint_every = 1
"""
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text(data)
    call = ("train", recipe, "--out", out, "--no-eval", "--init", file, "--progress", "none")
    assert braid(*call).code == 0
    origin = json.loads((out / "init" / "origin.json").read_text())
    assert (origin["form"], list(origin["weights"])) == ("gguf", ["tiny.gguf"])
    exported = braid("export", out, "--out", tmp_path / "exported", "--json")
    assert "tokenizer.json" in json.loads(exported.out)["files"]


def test_a_file_is_described_and_matched_by_its_declaration(braid, file, tmp_path):
    before = json.loads(braid("describe", file, "--context", 64, "--json").out)
    braid("import", file, "--out", tmp_path / "run")
    assert json.loads(braid("describe", tmp_path / "run", "--context", 64, "--json").out) == before
    wider = ("describe", file, "--set", "model.mixers.-.mixer.d_ff=32", "--json")
    fewer = before["totals"]["n_params"] - json.loads(braid(*wider).out)["totals"]["n_params"]
    assert fewer == 2 * 3 * 64 * (96 - 32)
    matched = json.loads(braid("match", file, tmp_path / "run", "--json").out)
    assert matched["after"] == matched["before"]


def test_a_file_is_no_recipe(refused, file, tmp_path):
    says = "is a GGUF file, not a recipe; 'braid import' makes a run of it"
    refused("data", "inspect", file, says=(str(file), says))
    refused("train", file, "--out", tmp_path / "run", says=(str(file), says))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["eval", "generate", "analyze"])
def test_what_needs_a_run_says_what_makes_one(refused, file, command):
    refused(command, file, says=("it is a file", "'braid import' makes a run of it"))


def test_a_folder_of_such_files_names_one(refused, file, tmp_path):
    refused("import", tmp_path, "--out", tmp_path / "run", says=("give a file of it", str(file)))


DAMAGED = {
    "cut": (lambda data: data[:-100], "is cut short"),
    "cut early": (lambda data: data[:1000], "is cut short or damaged: it ends in "),
    "empty": (lambda data: b"", "first bytes are not 'GGUF'"),
    "another form": (lambda data: b"PK" + data, "first bytes are not 'GGUF'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_leave_nothing_behind(refused, file, tmp_path, name):
    damage, says = DAMAGED[name]
    file.write_bytes(damage(file.read_bytes()))
    refused("import", file, "--out", tmp_path / "run", says=(str(file), says))
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob(".run*"))


def test_a_file_without_a_model_is_refused(refused, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    finish(writer)
    says = "tensor 'token_embd.weight' is missing"
    refused("import", tmp_path / "a.gguf", "--out", tmp_path / "run", says=says)


def test_another_file_is_no_folder(refused, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    refused("import", tmp_path / "a.txt", "--out", tmp_path / "run", says="is a file, but no GGUF")


def test_a_message_is_answered_in_the_chat_template(braid, refused, file, tmp_path):
    pytest.importorskip("transformers")
    braid("import", file, "--out", tmp_path / "run")
    words = ("generate", tmp_path / "run", "--max-new-tokens", 2, "--json", "--prompt", "the x")
    prompts = {
        chat: json.loads(braid(*words, *chat).out)["completions"][0]["prompt_tokens"]
        for chat in ((), ("--chat",))
    }
    tokenizer = load_tokenizer(f"hf:{tmp_path / 'run' / 'hf'}")
    text = tokenizer.encode("the x").tolist()
    assert prompts[()] == [0, *text]
    assert prompts[("--chat",)] == [0, *text, *tokenizer.encode("!").tolist()]
    settings = tmp_path / "run" / "hf" / "tokenizer_config.json"
    told = json.loads(settings.read_text())
    settings.write_text(json.dumps({**told, "chat_template": "{{ raise_exception('no') }}"}))
    refused(*words, "--chat", says="its chat template fails: no")
    settings.write_text(json.dumps({k: v for k, v in told.items() if k != "chat_template"}))
    refused(*words, "--chat", says="has no chat template: prompt the model without --chat")


def test_bytes_have_no_chat_template(refused, file, tmp_path, braid):
    braid("import", file, "--out", tmp_path / "run", "--tokenizer", "bytes")
    refused("generate", tmp_path / "run", "--chat", says="tokenizer bytes has no chat template")
