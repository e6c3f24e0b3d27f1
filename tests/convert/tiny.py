"""Transformers so small that a conversion takes seconds, and a corpus that they can learn."""

import json
from pathlib import Path
from typing import Any

import torch

from braidlm.arch import Spec
from braidlm.arch.convert import ConvertConfig
from braidlm.cli.main import main
from braidlm.convert.copying import copy_weights
from braidlm.convert.target import Target, target
from braidlm.model import HybridLM

MODEL: dict[str, Any] = {
    "pattern": "(*-)2",
    "d_model": 16,
    "vocab_size": 264,
    "mixers": {"*": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 4}, "-": {"d_ff": 24}},
}


def spec(**fields: Any) -> Spec:
    return Spec.of(MODEL | fields)


def build(config: Spec, seed: int = 0) -> HybridLM:
    torch.manual_seed(seed)
    return HybridLM(config).eval()


def aimed(teacher: Spec, pattern: str, **fields: Any) -> Target:
    return target(teacher, ConvertConfig(pattern=pattern, **fields))


def converted(
    teacher: HybridLM, pattern: str, seed: int = 1, **fields: Any
) -> tuple[HybridLM, Target]:
    """Return a student with copied weights, and where it differs."""
    found = aimed(teacher.spec, pattern, **fields)
    student = build(found.spec, seed)
    copy_weights(student, teacher, found.changes, fields.get("share", 0.0))
    return student, found


def tokens(n_rows: int = 2, length: int = 12, seed: int = 3) -> torch.Tensor:
    return torch.randint(264, (n_rows, length), generator=torch.Generator().manual_seed(seed))


RECIPE = """
name = "teacher"
[model]
pattern = "(*-)2"
d_model = 32
vocab_size = 264
init_std = 0.08
[model.mixers."*"]
n_heads = 4
n_kv_heads = 2
head_dim = 8
[model.mixers."-"]
d_ff = 64
[data]
seq_len = 64
held_out = 0.1
cache_dir = "{folder}/cache"
[[data.sources]]
kind = "text"
path = "{folder}/corpus.jsonl"
[train]
steps = {steps}
batch_size = 8
lr = 5e-3
warmup_steps = 10
threads = 1
precision = "fp32"
device = "cpu"
[[tasks]]
kind = "lm"
seq_len = 64
n_documents = 8
"""


def write_teacher(folder: Path, steps: int = 150) -> Path:
    """Train a teacher on sums and names, and return its run."""
    words = ("ada", "bob", "cleo", "dan", "eve", "finn")
    lines = []
    for i in range(120):
        a, b = words[i % 6], words[(i // 6) % 6]
        text = f"{a} met {b}. {i} + {i} = {2 * i}. {a} told {b} about {a}. "
        lines.append(json.dumps({"text": text * 3}))
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "teacher.toml").write_text(RECIPE.format(folder=folder, steps=steps))
    words_of = ["train", folder / "teacher.toml", "--out", folder / "teacher", "--no-eval"]
    assert main([str(word) for word in [*words_of, "--progress", "none"]]) == 0
    return folder / "teacher"
