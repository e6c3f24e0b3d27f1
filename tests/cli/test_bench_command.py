"""`braid bench`: the card, the last line, what it writes, and what it refuses."""

import json
from dataclasses import replace

import pytest

from braidlm import report
from braidlm.bench import ceiling
from braidlm.bench.ceiling import Sizes
from braidlm.bench.clock import Rounds
from tests.bench.conftest import declaration
from tests.cli.conftest import contents

FEW = ("--contexts", "16", "--repeats", "3", "--new-tokens", "3", "--device", "cpu", "--threads", 1)


@pytest.fixture(autouse=True)
def _small_ceilings(monkeypatch):
    monkeypatch.setattr(ceiling, "CPU", Sizes(2**16, 64))


@pytest.fixture
def model(tmp_path):
    return declaration("M-*-", tmp_path)


def test_a_run_is_measured_into_its_own_results_and_the_report_draws_them(braid, run):
    before = contents(run)
    found = braid("bench", run, "--prefill", "--decode", *FEW)
    assert found.code == 0, found
    told = json.loads(found.out.splitlines()[-1])
    assert [p["mode"] for p in told["points"]] == ["prefill", "decode"]
    assert "bytes predicted = allocated" in found.out
    made = {"results/bench-prefill-cpu-fp32.json", "results/bench-decode-cpu-fp32.json"}
    after = contents(run)
    assert set(after) - set(before) == made
    assert {name: after[name] for name in before} == before
    result = json.loads((run / "results/bench-decode-cpu-fp32.json").read_text())
    assert result["checkpoint"] == "step-00000004"
    assert result["value"] == told["points"][1]["tokens_per_sec"]
    assert result["stderr"] > 0
    assert result["n"] == 3
    page = report.build([run], run.parent / "page.html").read_text()
    assert "Speed and memory" in page
    assert "Decoding, cpu fp32, batch 1" in page
    assert "at the ceiling" in page
    assert "bench tokens per sec" not in page  # speeds are no column to compare arms by


def test_a_declaration_is_measured_into_a_folder_again_and_again(braid, model, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        found = braid("bench", model, "--train", *FEW, "--out", out, "--dtype", "fp32")
        assert found.code == 0, found
    (file,) = (out / "results").glob("*.json")
    assert file.name == "bench-train-cpu-fp32.json"
    result = json.loads(file.read_text())
    assert result["step"] == 0
    assert result["checkpoint"] is None
    assert result["ops"]["cross_entropy"]
    assert "train 16 x 1  braid: " in found.err
    page = report.build([out], tmp_path / "page.html").read_text()
    assert "Every run ended and was measured alike" in page


def test_without_a_folder_nothing_is_written(braid, model, tmp_path):
    before = contents(tmp_path)
    found = braid("bench", model, "--prefill", *FEW)
    assert found.code == 0, found
    assert json.loads(found.out.splitlines()[-1])["files"] == []
    assert contents(tmp_path) == before


def test_a_fault_is_said_and_the_code_is_1(braid, model, monkeypatch):
    from braidlm.bench import accounts

    monkeypatch.setattr(accounts, "split", lambda memory: (0, 0))
    found = braid("bench", model, "--prefill", *FEW)
    assert found.code == 1
    assert "braid: state of sublayer 0 (M) at 16 tokens x 1: predicted" in found.err
    assert "FAULT KV cache of sublayer 2 (*)" in found.out


def test_nothing_that_fits_is_bad_input(braid, model):
    found = braid("bench", model, "--prefill", *FEW, "--batch-sizes", 10**12)
    assert found.code == 2
    last = found.err.splitlines()[-1]
    assert last.startswith("braid: nothing was measured: prefill 16 tokens x 1000000000000, braid:")
    assert "needs at least" in last


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--contexts", "0"), "--contexts 0: must be numbers of at least 1"),
        (("--contexts", "1k"), "--contexts 1k: must be whole numbers"),
        (("--batch-sizes", "2,"), "--batch-sizes 2,: must be whole numbers"),
        (("--repeats", "1"), "--repeats 1: must be at least 3"),
        (("--device", "tpu"), "device = 'tpu': allowed are auto, cpu and cuda"),
        (("--dtype", "fp8"), "dtype = 'fp8'"),
        (("--set", "model.d_modle=3"), "did you mean 'd_model'?"),
        (("--peer",), "did you mean '--peers'?"),
        (("--set", "train.cuda_grap=true"), "did you mean 'cuda_graph'?"),
        (("--set", "train.cuda_graph=true", "--device", "cpu"), "needs an NVIDIA GPU; device is"),
        (("--set", "train.overlap_branches=true", "--device", "cpu"), "needs an NVIDIA GPU"),
    ],
)
def test_wrong_values_are_one_sentence(refused, model, words, says):
    refused("bench", model, *words, says=says)


def test_what_is_not_there_and_what_may_not_be_written(refused, model, run, tmp_path):
    refused("bench", tmp_path / "nothing" / "here", says=("is not a run directory", "nothing/here"))
    refused("bench", tmp_path / "absent.toml", says=("absent.toml", "cannot be read"))
    refused("bench", run, "--out", tmp_path / "x", says="is a run: it is measured as it is")
    refused("bench", model, "--out", run, says="is not empty")


def test_no_peer_is_one_sentence(refused, model, monkeypatch):
    from braidlm.bench.peers import LIBRARIES

    absent = tuple(replace(library, is_installed=lambda: False) for library in LIBRARIES)
    monkeypatch.setattr("braidlm.bench.peers.LIBRARIES", absent)
    refused("bench", model, "--peers", says="--peers: none of the other libraries is installed")


def test_ctrl_c_ends_with_130_and_what_was_measured(braid, model, monkeypatch):
    run, n_points = Rounds.run, 0

    def interrupted(self):
        nonlocal n_points
        n_points += 1
        if n_points == 2:
            raise KeyboardInterrupt
        run(self)

    monkeypatch.setattr(Rounds, "run", interrupted)
    found = braid("bench", model, *FEW)
    assert found.code == 130
    told = json.loads(found.out.splitlines()[-1])
    assert told["is_interrupted"] is True
    assert [point["mode"] for point in told["points"]] == ["train"]
    assert "what was measured is told and kept" in found.err
