"""Studies of real training: what stands in `study.json` is what was trained, bit for bit."""

import hashlib
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from braidlm.cli.main import main
from braidlm.report import tables
from tests.study.making import (
    RECIPE,
    book,
    ended,
    is_alive,
    launch,
    states,
    wait_until,
    write_study,
)

ARMS = {"attention": [], "mamba": ['model.pattern="M-"']}
LONG = RECIPE.replace("steps = 6", "threads = 1\nsteps = 120")


def weights(run: Path) -> str:
    (path,) = sorted(run.glob("checkpoints/*/weights.safetensors"))[-1:]
    return f"{path.parent.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def outcome(out: Path) -> dict[str, Any]:
    """Weights, logged losses and results of every run."""
    found: dict[str, Any] = {}
    for run in sorted(out.glob("*/seed-*/")):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        result = json.loads((run / "results" / "mqar-recall.json").read_text())
        found["/".join(run.parts[-2:])] = (
            weights(run),
            [(row["step"], row["loss"]) for row in rows],
            {name: metric["value"] for name, metric in result["metrics"].items()},
        )
    return found


def test_a_command_of_a_study_makes_the_same_weights_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arms = {"good": [], "wild": ["train.lr=1e30"]}
    study_file, out = write_study(tmp_path, arms), tmp_path / "out"
    assert main(["study", str(study_file), "--out", str(out), "--json", "--jobs", "2"]) == 1

    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["runs"] == {"good/seed-0": "done", "wild/seed-0": "failed"}
    assert "gradient norm = nan" in summary["errors"]["wild/seed-0"]
    assert "wild/seed-0  failed" in printed.err

    rows = tables([out])["problems"]
    assert [(row["arm"], row["state"]) for row in rows] == [("wild", "failed")]
    assert "gradient norm = nan" in rows[0]["error"]

    program, *arguments = shlex.split(book(out)["runs"]["good/seed-0"]["command"])
    assert program == "braid"
    alone = tmp_path / "alone"
    arguments[arguments.index("--out") + 1] = str(alone)
    subprocess.run([sys.executable, "-m", "braidlm", *arguments], check=True, capture_output=True)
    assert weights(alone) == weights(out / "good" / "seed-0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran without a break."""
    folder = tmp_path_factory.mktemp("whole")
    study_file, out = write_study(folder, ARMS, LONG, jobs=1), folder / "out"
    assert ended(launch(study_file, out, is_real=True), 300)[0] == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_study_that_was_stopped_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, number: signal.Signals
):
    study_file, broken = write_study(tmp_path, ARMS, LONG, jobs=1), tmp_path / "broken"
    runner = launch(study_file, broken, is_real=True)
    wait_until(lambda: any(len(p.read_bytes()) > 3000 for p in broken.glob("*/*/metrics.jsonl")))
    pids = [row["pid"] for row in book(broken)["runs"].values() if row["pid"]]
    runner.send_signal(number)
    code = ended(runner)[0]
    if number is signal.SIGINT:
        assert code == 130
        assert sorted(states(broken).values()) == ["interrupted", "waiting"]

    assert ended(launch(study_file, broken, "--resume", is_real=True), 300)[0] == 0
    assert not any(is_alive(pid) for pid in pids)
    assert outcome(broken) == outcome(whole)
    assert len(outcome(whole)) == 2


def test_studies_never_import_torch():
    code = "import sys, braidlm.study, braidlm.cli.main; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"
