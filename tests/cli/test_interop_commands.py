"""`braid import` and `braid export`: every command takes an imported run."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from braidlm.checkpoint import load_model, save
from tests.cli.conftest import ROOT
from tests.interop.folders import llama


@pytest.fixture
def imported(braid, tmp_path):
    folder = llama(tmp_path / "hf", vocab_size=300)
    words = ("--tokenizer", "bytes", "--json")
    found = braid("import", folder, "--out", tmp_path / "run", *words)
    assert found.code == 0
    assert json.loads(found.out)["family"] == "llama"
    return tmp_path / "run"


def test_every_command_takes_an_imported_run(braid, imported, tmp_path):
    described = braid("describe", imported)
    assert described.out.startswith("(*-)2\n")
    made = braid("generate", imported, "--prompt", "a", "--max-new-tokens", 3, "--json")
    assert len(json.loads(made.out)["completions"][0]["tokens"]) == 3
    listed = braid("eval", imported, "--list")
    assert "lm-held-out" in listed.out
    assert braid("match", imported, imported).code == 0
    assert braid("generate", imported / "checkpoints/step-00000000", "--prompt", "a").code == 0
    assert braid("report", imported, "-o", tmp_path / "r.html").code == 0


def test_what_is_said(braid, imported, tmp_path):
    weights = imported / "checkpoints/step-00000000/weights.safetensors"
    n = sum(t.numel() for t in load_file(weights).values())
    again = braid("import", tmp_path / "hf", "--out", tmp_path / "b", "--dtype", "bf16")
    assert again.out.splitlines() == [
        "llama: (*-)2",
        f"{n:,} parameters in bfloat16",
        "tokenizer: none; tasks in text need one: import with --tokenizer NAME",
        str(tmp_path / "b/checkpoints/step-00000000"),
    ]
    out = braid("export", imported, "--out", tmp_path / "out").out.splitlines()
    assert out == [
        f"llama: step 0 of {imported / 'checkpoints/step-00000000'}",
        "along with it: no tokenizer files",
        str(tmp_path / "out"),
    ]


LETTERS = sorted(ByteLevel.alphabet())


def byte_tokenizer(folder):
    """Write a tokenizer of bytes in another order, with its one special token last."""
    vocab = {letter: 255 - i for i, letter in enumerate(LETTERS)}
    inner = Tokenizer(BPE({**vocab, "<s>": 299}, []))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    inner.add_special_tokens(["<s>"])
    inner.save(str(folder / "tokenizer.json"))


PHONEBOOK = """[[tasks]]
kind = "phonebook"
lengths = [200]
n_items = 4
"""


class TestMovedRuns:
    """A run of a checkpoint with a tokenizer, in another place than where it was made."""

    @pytest.fixture
    def moved(self, braid, tmp_path):
        folder = llama(tmp_path / "hf", vocab_size=300)
        byte_tokenizer(folder)
        made = braid("import", folder, "--out", tmp_path / "before" / "run", "--json")
        assert json.loads(made.out)["tokenizer"] == f"hf:{tmp_path / 'before/run/hf'}"
        shutil.rmtree(folder)
        (tmp_path / "before").rename(tmp_path / "after")
        (tmp_path / "tasks.toml").write_text(PHONEBOOK)
        return tmp_path / "after" / "run"

    def asked(self, braid, run, tmp_path):
        file = tmp_path / "tasks.toml"
        found = braid("eval", run, "--tasks-file", file, "--tasks", "phonebook", "--json")
        assert found.code == 0, found.err
        made = braid("generate", run, "--prompt", "abc", "--max-new-tokens", 2, "--json")
        assert made.code == 0, made.err
        ids = json.loads(made.out)["completions"][0]["prompt_tokens"]
        assert ids == [299, *(255 - LETTERS.index(x) for x in "abc")]  # of its files, not of bytes

    def test_every_command_finds_its_tokenizer(self, braid, moved, tmp_path):
        assert json.loads((moved / "config.json").read_text())["data"]["tokenizer"] == "run:hf"
        self.asked(braid, moved, tmp_path)
        found = braid("export", moved, "--out", tmp_path / "out", "--format", "braid-hf")
        assert "tokenizer.json" in found.out
        shutil.rmtree(moved / "hf")
        again = braid("generate", moved, "--prompt", "a")
        assert again.code == 2
        assert str(moved / "hf") in again.err

    def test_so_do_runs_that_name_it_by_its_whole_path(self, braid, moved, tmp_path):
        recipe = json.loads((moved / "config.json").read_text())
        recipe["data"]["tokenizer"] = f"hf:{tmp_path / 'before/run/hf'}"
        (moved / "config.json").write_text(json.dumps(recipe))
        model, _ = load_model(moved)
        save(moved / "checkpoints/step-00000000", model, recipe=recipe)
        self.asked(braid, moved, tmp_path)

    def test_elsewhere_the_short_name_is_refused(self, refused, moved, tmp_path):
        recipe = (ROOT / "recipes/tiny.toml").read_text().replace('"bytes"', '"run:hf"')
        (tmp_path / "r.toml").write_text(recipe)
        says = 'tokenizer run:hf lies in the folder of a run: give "hf:"'
        refused("train", tmp_path / "r.toml", "--out", tmp_path / "t", says=says)


def test_a_folder_of_another_library_is_described_before_it_is_imported(braid, imported, tmp_path):
    before = braid("describe", tmp_path / "hf", "--context", 64, "--json").out
    assert before == braid("describe", imported, "--context", 64, "--json").out
    (tmp_path / "hf" / "model.safetensors").unlink()
    assert braid("describe", tmp_path / "hf", "--context", 64, "--json").out == before


@pytest.mark.parametrize("command", ["eval", "analyze", "data inspect", "data overlap"])
def test_what_needs_a_run_names_the_import(refused, tmp_path, command):
    folder = llama(tmp_path / "hf")
    says = "config.json: is no recipe; of another's folder 'braid import' makes a run"
    refused(*command.split(), folder, says=says)


def test_a_run_needs_no_import(refused, imported, tmp_path):
    out = tmp_path / "again"
    refused("import", imported, "--out", out, says="every command takes as it is")
    assert not out.exists()
