"""A newcomer's desk: a small corpus, a tiny recipe, one trained run, and ways to call `braid`."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from braidlm.cli.main import main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny.toml"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes, but for the empty lock files."""
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and not f.name.endswith(".lock")
    }


def write_recipe(folder: Path) -> Path:
    """A recipe of a second's training beside a corpus of eighty documents."""
    lines = (json.dumps({"text": f"document {i} says {i * i}. " * 6}) + "\n" for i in range(80))
    (folder / "corpus.jsonl").write_text("".join(lines))
    text = TINY.read_text().replace('"python-docs"', f'"{folder / "corpus.jsonl"}"')
    text = text.replace("[data]\n", f'[data]\nheld_out = 0.2\ncache_dir = "{folder / "cache"}"\n')
    text = re.sub(r"seq_len = 128", "seq_len = 64", text)
    for field, value in {
        "steps": 4,
        "batch_size": 4,
        "checkpoint_every": 2,
        "n_documents": 4,
        "n_items": 4,
        "d_model": 32,
    }.items():
        text = re.sub(rf"(?m)^{field} = \d+", f"{field} = {value}", text)
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


@pytest.fixture
def braid(capsys):
    """Call `braid` in this process."""

    def call(*words) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        found = capsys.readouterr()
        return Outcome(code, found.out, found.err)

    return call


@pytest.fixture
def refused(braid):
    """Call `braid`, hold it to one sentence and exit code 2, and look for words in the sentence."""

    def call(*words, says: str | tuple[str, ...]) -> str:
        found = braid(*words)
        assert found.code == 2, found
        assert found.err.startswith("braid: "), found.err
        assert found.err.count("\n") == 1, found.err
        assert found.out == ""
        for part in (says,) if isinstance(says, str) else says:
            assert part in found.err
        return found.err

    return call


def process(*words, **settings) -> subprocess.CompletedProcess[str]:
    """Call `python -m braidlm` in a process of its own."""
    command = [sys.executable, "-m", "braidlm", *map(str, words)]
    settings = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 120} | settings
    return subprocess.run(command, check=False, **settings)


@pytest.fixture
def recipe(tmp_path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with `recipe.toml` and its trained and evaluated `run`; do not write in it."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    words = ["train", write_recipe(folder), "--out", folder / "run", "--progress", "none"]
    with open(os.devnull, "w") as nowhere:
        before, sys.stdout = sys.stdout, nowhere
        try:
            assert main([str(word) for word in words]) == 0
        finally:
            sys.stdout = before
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the trained run, to be broken."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))
