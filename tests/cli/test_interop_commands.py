"""`braid import` and `braid export`: every command takes an imported run."""

import json

import pytest
from safetensors.torch import load_file

from tests.interop.folders import llama


@pytest.fixture
def imported(braid, tmp_path):
    folder = llama(tmp_path / "hf", vocab_size=300)
    found = braid("import", folder, "--out", tmp_path / "run", "--json")
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
        "tokenizer: bytes",
        str(tmp_path / "b/checkpoints/step-00000000"),
    ]
    out = braid("export", imported, "--out", tmp_path / "out").out.splitlines()
    assert out == [
        f"llama: step 0 of {imported / 'checkpoints/step-00000000'}",
        "along with it: no tokenizer files",
        str(tmp_path / "out"),
    ]
