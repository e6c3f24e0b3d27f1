"""Declare, train, test and sample from Python, in a temporary folder.

The task is recall: the model reads pairs of symbols and must name the value when it sees the key
again. Prints the loss at the beginning and the end, the accuracy, and a continuation. `braid train`
and `braid eval` do the same from a recipe file.
"""

import tempfile
from pathlib import Path

from braidlm import Recipe, evaluate, load_model
from braidlm.generate import generate
from braidlm.runs import Run
from braidlm.train import train

RECIPE = {
    "name": "recall",
    "seed": 0,
    "model": {
        "pattern": "M*",
        "d_model": 32,
        "vocab_size": 16,
        "mixers": {"M": {"head_dim": 16, "d_state": 16}, "*": {"head_dim": 16}},
    },
    "data": {
        "seq_len": 64,
        "sources": [
            {"kind": "mqar", "vocab_size": 16, "n_pairs": [2], "length": 16, "alpha": 1.0},
        ],
    },
    "train": {
        "steps": 100,
        "batch_size": 16,
        "lr": 1e-2,
        "warmup_steps": 10,
        "log_every": 20,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    },
    "tasks": [{"kind": "mqar", "n_items": 100}],
}


def main() -> None:
    """Train, evaluate, generate."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = train(Recipe.from_dict(RECIPE), out)
        first, *_, last = Run.open(out).metrics()
        print(f"{summary.state} after {summary.step} steps and {summary.tokens:,} tokens")
        print(f"loss: {first['loss']:.2f} -> {last['loss']:.2f} nats")

        (result,) = evaluate(out)
        print(f"recall: {result['value']:.2f} +- {result['stderr']:.2f}, n = {result['n']}")

        model, _ = load_model(out)
        (new,) = generate(model, [[3, 12, 5, 9, 0, 0, 3]], max_new_tokens=1, temperature=0)
        print(f"after 3 12 5 9 . . 3 comes {new[0]}")


if __name__ == "__main__":
    main()
