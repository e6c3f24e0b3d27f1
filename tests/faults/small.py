"""A run so small that it can be killed a thousand times: shards, training, tasks and a report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from braidlm import checkpoint, report
from braidlm.arch import Recipe
from braidlm.data.shards import file_sha256
from braidlm.manifest import WEIGHTS, verify
from braidlm.runs import Run
from braidlm.tasks import evaluate
from braidlm.train import train

STEPS = 8
_FREE = ("wall_sec", "tokens_per_sec", "written_at", "updated_at", "python")
"""Times, and the state of Python's own generator, which training neither sets nor uses."""


def write_corpus(folder: Path) -> None:
    """The text of all runs below `folder`: thirty short documents."""
    lines = [json.dumps({"text": f"document {i} says {i * i}. " * 3}) for i in range(30)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")


def recipe(folder: Path) -> Recipe:
    """Eight updates with a checkpoint after every second, on text and recall."""
    sizes = {"d_model": 8, "vocab_size": 320}
    letters = {"M": {"head_dim": 8, "d_state": 4}, "*": {"head_dim": 8}, "-": {"d_ff": 8}}
    recall = {"kind": "mqar", "vocab_size": 32, "token_offset": 280, "n_pairs": [2], "length": 8}
    text = {"kind": "text", "path": str(folder.parent / "corpus.jsonl")}
    return Recipe.from_dict(
        {
            "name": "small",
            "seed": 3,
            "model": {"pattern": "M-*-", **sizes, "mixers": letters},
            "data": {
                "seq_len": 16,
                "held_out": 0.2,
                "cache_dir": str(folder / "cache"),
                "sources": [text, recall],
            },
            "train": {
                "steps": STEPS,
                "batch_size": 2,
                "warmup_steps": 2,
                "log_every": 1,
                "checkpoint_every": 2,
                "keep_checkpoints": 2,
                "device": "cpu",
                "precision": "fp32",
                "threads": 1,
            },
            "tasks": [
                {"kind": "lm", "seq_len": 16, "n_documents": 3},
                {"kind": "mqar", "n_items": 4},
            ],
        }
    )


def session(folder: Path) -> None:
    """Do what is left to do: train (on), evaluate, report."""
    torch.set_num_threads(1)
    train(recipe(folder), folder / "run", resume=True)
    evaluate(folder / "run")
    report.build([folder / "run"], folder / "report.html")


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, without times and without the place where it lies."""
    run, newest = Run.open(folder / "run"), checkpoint.latest(folder / "run")
    verify(newest)
    shards = sorted((folder / "cache").glob("*/[!.]*.*"))
    return {
        "checkpoints": [path.name for path in checkpoint.checkpoints(run.path)],
        "weights": file_sha256(newest / WEIGHTS),
        "state": _digest(checkpoint.load_train_state(newest)),
        "metrics": timeless(run.metrics(), folder),
        "results": timeless(run.results(), folder),
        "status": timeless(run.status(), folder),
        "config": timeless(run.config, folder),
        "shards": {p.name: file_sha256(p) for p in shards if p.name != "meta.json"},
    }


def timeless(value: Any, folder: Path) -> Any:
    """Plain data without what differs between two good runs."""
    if isinstance(value, dict):
        return {k: timeless(v, folder) for k, v in value.items() if k not in _FREE}
    if isinstance(value, list):
        return [timeless(v, folder) for v in value]
    return value.replace(str(folder), "HERE") if isinstance(value, str) else value


def _digest(state: Any) -> Any:
    """A training state as plain data, tensors by their bytes."""
    if isinstance(state, dict):
        return {str(k): _digest(v) for k, v in state.items() if k not in _FREE}
    if isinstance(state, list | tuple):
        return [_digest(v) for v in state]
    if isinstance(state, torch.Tensor):
        data = state.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return f"{tuple(state.shape)} {state.dtype} {hashlib.sha256(data).hexdigest()}"
    return state
