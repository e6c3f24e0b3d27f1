"""Writes tiny studies; as a program it is `braid study` over `fake_braid`, to be signalled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from braidlm.study import runner

FAKE = (sys.executable, str(Path(__file__).with_name("fake_braid.py")))
"""Trains nothing, writes the files of a run, and behaves as the arm's name says."""

RECIPE = """
name = "tiny"
[model]
pattern = "*-"
d_model = 8
vocab_size = 32
[data]
seq_len = 16
[[data.sources]]
kind = "mqar"
vocab_size = 16
n_pairs = [2]
length = 16
[train]
steps = 6
batch_size = 2
lr = 1e-2
checkpoint_every = 2
log_every = 1
device = "cpu"
precision = "fp32"
[[tasks]]
kind = "mqar"
n_items = 4
"""

Arms = dict[str, list[str]]


def write_study(
    folder: Path, arms: Arms, recipe: str = RECIPE, name: str = "study", **fields: Any
) -> Path:
    """Write recipe.toml and study.toml; return the study's path."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(recipe)
    lines = [f'name = "{name}"', 'recipe = "recipe.toml"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in ({"jobs": 2} | fields).items()]
    for arm, overrides in arms.items():
        lines += ["[[arms]]", f'name = "{arm}"', f"set = {json.dumps(overrides)}"]
    (folder / "study.toml").write_text("\n".join(lines))
    return folder / "study.toml"


def book(out: Path) -> dict[str, Any]:
    return json.loads((out / "study.json").read_text())


def states(out: Path) -> dict[str, str]:
    return {run: row["state"] for run, row in book(out)["runs"].items()}


def launch(study: Path, out: Path, *arguments: str, is_real: bool = False) -> Any:
    """Start `braid study` as a process of its own, with fake or real runs."""
    program = ["-m", "braidlm"] if is_real else ["-m", "tests.study.making"]
    command = [sys.executable, *program, "study", str(study), "--out", str(out), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: Any, seconds: float = 60.0) -> tuple[int, str, str]:
    """Wait for the end of a process; return its exit code and what it said."""
    out, errors = process.communicate(timeout=seconds)
    return process.returncode, out, errors


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


if __name__ == "__main__":
    from braidlm.cli.main import main

    runner.PROGRAM = FAKE
    sys.exit(main())
