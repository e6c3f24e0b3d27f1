"""The studies whose reports are opened: one that is trained here, one that is written down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.report.making import config, lm, mqar, write_run, write_study
from tests.study import making as studies

_RECIPE = """
name = "small"
[model]
pattern = "M-*-"
d_model = 16
vocab_size = 320
[data]
seq_len = 32
held_out = 0.2
cache_dir = "{folder}/cache"
[[data.sources]]
kind = "text"
path = "{folder}/corpus.jsonl"
[[data.sources]]
kind = "mqar"
vocab_size = 32
token_offset = 280
n_pairs = [2, 4]
length = 16
[train]
steps = 12
batch_size = 4
checkpoint_every = 6
log_every = 1
device = "cpu"
precision = "fp32"
threads = 1
[[tasks]]
kind = "lm"
seq_len = 32
n_documents = 6
[[tasks]]
kind = "mqar"
n_items = 8
"""


def real_study(folder: Path) -> Path:
    """Two arms x two seeds, trained and evaluated in seconds."""
    lines = (json.dumps({"text": f"document {i} says {i * i}. " * 6}) + "\n" for i in range(60))
    (folder / "corpus.jsonl").write_text("".join(lines))
    arms = {"hybrid": [], "parallel": ['model.pattern="({M*}-)2"']}
    recipe = _RECIPE.replace("{folder}", str(folder))
    file = studies.write_study(folder, arms, recipe, seeds=[0, 1])
    command = [sys.executable, "-m", "braidlm", "study", str(file), "--out", str(folder / "study")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder / "study"


N_CROWD = 11


def crowded_study(folder: Path) -> Path:
    """Many arms, long names without spaces, numbers of every length, failures and cautions."""
    folder = folder / "study"
    patterns = ("(*-)6", "M-M-*-", "{M*}-", "(M-)6")
    for i in range(N_CROWD):
        recipe = config(patterns[i % 4], d_model=64 * (1 + i % 5))
        results = [
            lm(8.5 + 0.37 * i, dtype="bfloat16" if i % 2 else "float32"),
            mqar(1.0 - 0.06 * i),
        ]
        failed = "CUDA out of memory: tried to allocate 2.00 GiB" if i == 3 else None
        state = "failed" if failed else "done"
        write_run(folder / f"a{i}" / "seed-0", recipe, results=results, state=state, error=failed)
    names = [f"arm {i} with{'_a_long_name' * (i % 4)}" for i in range(N_CROWD)]
    arms = [{"name": f"a{i}", "label": name, "overrides": []} for i, name in enumerate(names)]
    return write_study(folder, [], arms=arms, seeds=[0], matched=["parameters"])
