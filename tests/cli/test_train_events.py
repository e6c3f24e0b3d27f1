"""What `braid train --progress json` tells a program, and what it does when the program is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import write_recipe


def train(out: Path, steps: int, *more: str) -> subprocess.Popen[str]:
    recipe = write_recipe(out.parent)
    command = [sys.executable, "-m", "braidlm", "train", str(recipe), "--out", str(out)]
    small = ("data.seq_len=32", "train.batch_size=2", "train.threads=1")
    for text in (f"train.steps={steps}", *small):
        command += ["--set", text]
    return subprocess.Popen(
        [*command, "--progress", "json", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_nobody_listens_to_saves_and_stops(tmp_path):
    process = train(tmp_path / "run", 100_000)
    assert process.stdout is not None
    assert process.stderr is not None
    first = json.loads(process.stdout.readline())
    assert first == {"step": 0, "steps": 100_000}
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    assert "continue with --resume" in process.stderr.read()
    process.stderr.close()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{status['step']:08d}").is_dir()
