"""Bases from elsewhere, in every form: a run, its export, that imported again, a converted run."""

import json
from pathlib import Path
from typing import Any

import pytest

from braidlm.cli.main import main
from braidlm.files import read_json
from tests.study.making import states
from tests.study.test_real import weights

BASE = """
name = "base"
[model]
pattern = "*-"
d_model = 16
vocab_size = 384
[model.mixers."*"]
head_dim = 8
[data]
tokenizer = "{folder}/tokenizer.json"
seq_len = 32
{source}
[train]
steps = 2
batch_size = 2
device = "cpu"
precision = "fp32"
threads = 1
"""
SOURCE = '[[data.sources]]\nkind = "text"\npath = "{folder}/texts.jsonl"\nweight = 1.0\n'
BASES = ("run", "folder", "imported", "hybrid")
STUDY = 'name = "study"\nrecipe = "arms.toml"\nkeep = "last"\njobs = 2\n' + "".join(
    f'[[bases]]\nname = "{name}"\ninit = "{name}"\n' for name in BASES
)
ARMS = """
[[arms]]
name = "plain"
set = ['data.sources.paraphrase.layout="plain"']
[[arms]]
name = "after"
bases = ["run"]
"""
PAIRS = """
[[data.sources]]
kind = "paraphrase"
path = "{folder}/people"
length = 32
too_long = "cut"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four bases and a study of them."""
    folder = tmp_path_factory.mktemp("given")
    texts = [
        {"text": f"The {n} ships of the city of {n * 7} sailed {n * n} miles."} for n in range(90)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    people = ["paraphrase", "--method", "biographies", "--out", str(folder / "people")]
    assert main([*people, "--set", "n_people=8", "--set", "n_paraphrases=1"]) == 0
    made = [str(folder / "people" / "pairs.jsonl"), "--field", "text", "--vocab-size", "384"]
    tokenizer = str(folder / "tokenizer.json")
    assert main(["data", "tokenizer", *made, "--out", tokenizer]) == 0
    text = BASE.format(folder=folder, source=SOURCE.format(folder=folder))
    (folder / "base.toml").write_text(text)
    run, exported, taken = (str(folder / name) for name in BASES[:3])
    assert main(["train", str(folder / "base.toml"), "--out", run]) == 0
    assert main(["export", run, "--out", exported]) == 0
    assert main(["import", exported, "--out", taken]) == 0
    assert main(["convert", run, "--pattern", "M-", "--out", str(folder / "hybrid")]) == 0
    bare = text.partition("[model]")[0] + "[data]\n" + text.partition("seq_len")[1]
    bare += text.partition("seq_len")[2] + "[[tasks]]\nkind = 'biographies'\nn_items = 2\n"
    bare += f"folder = '{folder}/people'\n"
    pairs = PAIRS.format(folder=folder)
    (folder / "arms.toml").write_text(bare.replace("[train]", f"{pairs}[train]"))
    (folder / "study.toml").write_text(STUDY + ARMS)
    return folder


@pytest.mark.slow
def test_one_model_in_three_forms_gives_one_result(place: Path):
    out = place / "out"
    assert main(["study", str(place / "study.toml"), "--out", str(out), "--quiet"]) == 0
    assert set(states(out).values()) == {"done"}
    runs = {base: out / f"{base}-plain" / "seed-0" for base in BASES}
    assert weights(runs["run"]) == weights(runs["folder"]) == weights(runs["imported"])
    assert weights(runs["run"]) != weights(runs["hybrid"])
    assert result(runs["run"]) == result(runs["folder"]) == result(runs["imported"])
    assert weights(runs["run"]) != weights(out / "run-after" / "seed-0")
    forms = [read_json(run / "init" / "origin.json")["form"] for run in runs.values()]
    assert forms == ["run", "transformers", "run", "run"]
    before = {path.parts[-5] for path in out.glob("*/seed-0/init/results/*.json")}
    assert before == {f"{base}-plain" for base in BASES}
    assert not list(out.glob("*/seed-0/init/checkpoints/step-*"))


def result(run: Path) -> dict[str, Any]:
    return read_json(run / "results" / "biographies-facts_from_weights.json")["metrics"]
