"""What carried states teach: a memory that is longer than the segments of training.

    python benchmarks/carried_states.py --steps 800 --seeds 0 1

Every document says letters of its own by chance, 6 of 26: "qkaqzzkbq...". Which they are can be
known once they have been said, and a segment of 8 tokens does not say them all. Lanes read the
documents with states that go on and with states that begin anew: the same batches, updates and
initial weights. Then new documents are read whole, and the loss is told by position: knowing
nothing is ln 26 = 3.26 nats, knowing the letters ln 6 = 1.79.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from braidlm.arch import Recipe
from braidlm.checkpoint import load_model
from braidlm.data.lanes import LaneMixture
from braidlm.data.tokenizer import load_tokenizer
from braidlm.train import train

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH, N_OWN = 256, 6
BINS = (0, 8, 16, 32, 64, 128, 256)


def document(generator: np.random.Generator) -> str:
    """Return one document of LENGTH letters."""
    own = generator.choice(list(LETTERS), N_OWN, replace=False)
    return "".join(generator.choice(own, LENGTH))


def recipe(folder: Path, pattern: str, steps: int, seed: int) -> Recipe:
    """Return the declaration; the data are written beside it."""
    path = folder / "text.txt"
    generator = np.random.default_rng(0)
    path.write_text("\n".join(document(generator) for _ in range(400)))
    text = {"kind": "text", "path": str(path), "documents": "line"}
    return Recipe.from_dict(
        {
            "seed": seed,
            "model": {
                "pattern": pattern,
                "d_model": 64,
                "vocab_size": 264,
                "mixers": {"-": {"d_ff": 128}, "M": {"head_dim": 32, "d_state": 32}},
            },
            "data": {
                "seq_len": 8,
                "sources": [text],
                "held_out": 0.0,
                "cache_dir": str(folder / "cache"),
            },
            "train": {
                "steps": steps,
                "batch_size": 32,
                "carry_states": True,
                "optimizer": "muon",
                "lr": 2e-3,
                "muon": {"lr": 0.01},
                "schedule": "trapezoid",
                "warmup_steps": 50,
                "precision": "fp32",
                "threads": 1,
                "device": "cpu",
            },
        }
    )


def by_position(run: Path) -> list[tuple[float, float]]:
    """Return mean and standard error over 100 new documents of each bin's loss."""
    model, _ = load_model(run)
    tokenizer = load_tokenizer("bytes")
    generator = np.random.default_rng(1)
    texts = [document(generator) for _ in range(100)]
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts])
    with torch.no_grad():
        loss = model.loss(ids[:, :-1], ids[:, 1:], reduction="none")
    found = []
    for start, end in pairwise(BINS):
        each = loss[:, start:end].mean(1)
        found.append((float(each.mean()), float(each.std() / len(texts) ** 0.5)))
    return found


def main() -> None:
    """Train both arms for every seed and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--pattern", default="M-")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    print("states  seed  " + "  ".join(f"{a}-{b}" for a, b in pairwise(BINS)))
    for seed in args.seeds:
        for states in ("carried", "anew"):
            with tempfile.TemporaryDirectory() as folder:
                declared = recipe(Path(folder), args.pattern, args.steps, seed)
                mixture = LaneMixture(declared.data, batch_size=32, seed=seed)
                if states == "anew":
                    fields = declared.train.model_copy(update={"carry_states": False})
                    declared = declared.model_copy(update={"train": fields})
                train(declared, Path(folder) / "run", mixture=mixture)
                found = by_position(Path(folder) / "run")
            line = "  ".join(f"{mean:.3f} ± {error:.3f}" for mean, error in found)
            print(f"{states:8}{seed:4}  {line}", flush=True)


if __name__ == "__main__":
    main()
