"""A model, data and a recipe so small that a whole run takes milliseconds."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm import train
from braidlm.arch import Recipe
from braidlm.segments import Segments

VOCAB = 16


class TinyLM(nn.Module):
    """Predicts from the token and its position in the document; the head is the embedding."""

    scale: Tensor

    def __init__(self, width: int = 8, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.embedding = nn.Embedding(VOCAB, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.A_log = nn.Parameter(torch.ones(2, width // 2))
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(width))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.to(dtype)

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.named_parameters() if p.grad is not None}

    def loss(
        self, tokens: Tensor, targets: Tensor, segments: Segments | None, reduction: str = "mean"
    ) -> Tensor:
        hidden = self.embedding(tokens)
        if segments is not None:
            hidden = hidden + (segments.position[..., None] * 0.1).to(hidden)
        hidden = self.norm(torch.tanh(self.mix(hidden)) * self.scale) * self.A_log.exp().flatten()
        logits = self.head(hidden).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction=reduction)


@dataclass
class TinyBatch:
    tokens: Tensor
    targets: Tensor
    segments: Segments | None
    n_tokens: int
    source_counts: dict[str, int]


class TinyMixture:
    """Batches that depend on the step alone; rows differ much in how many targets they have."""

    def __init__(self, rows: int = 4, length: int = 6) -> None:
        self.rows, self.length = rows, length

    def batch(self, step: int) -> TinyBatch:
        generator = torch.Generator().manual_seed(1000 + step)
        shape = (self.rows, self.length)
        tokens = torch.randint(VOCAB, shape, generator=generator)
        targets = (3 * tokens + 1) % VOCAB
        for row in range(1, self.rows):
            targets[row, row:] = -100
        lengths = [[self.length - 2, 1] for _ in range(self.rows)]
        segments = Segments.from_lengths(lengths, self.length)
        counts = {"a": self.rows - 1, "b": 1}
        return TinyBatch(tokens, targets, segments, self.rows * (self.length - 1), counts)


class BreakingMixture(TinyMixture):
    """Does something at one step before it gives the batch."""

    def __init__(self, at: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.at, self.action = at, action

    def batch(self, step: int) -> TinyBatch:
        if step == self.at:
            self.action()
        return super().batch(step)


def recipe(**overrides: Any) -> Recipe:
    """Return a recipe of 8 steps; overrides are fields of its training."""
    fields = {
        "steps": 8,
        "batch_size": 4,
        "lr": 0.05,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every": 100,
        "precision": "fp32",
        "device": "cpu",
    }
    source = {"kind": "mqar", "vocab_size": VOCAB, "n_pairs": [2], "length": 8}
    return Recipe.from_dict(
        {
            "name": "tiny",
            "seed": 7,
            "model": {"pattern": "*-", "d_model": 8, "vocab_size": VOCAB},
            "data": {"seq_len": 8, "sources": [source]},
            "train": fields | overrides,
        }
    )


def run(out: Path, config: Recipe | None = None, **arguments: Any) -> train.Summary:
    """Train the tiny model on the tiny data."""
    if "model" not in arguments:
        arguments["model"] = TinyLM()
    if "mixture" not in arguments:
        arguments["mixture"] = TinyMixture()
    return train.train(config or recipe(), out, **arguments)


if __name__ == "__main__":  # a process of its own, to be killed: OUT, then "resume" or ""
    import time

    class SlowMixture(TinyMixture):
        def batch(self, step: int) -> TinyBatch:
            print(step, flush=True)
            time.sleep(0.05)
            return super().batch(step)

    torch.set_num_threads(1)
    summary = run(
        Path(sys.argv[1]),
        recipe(steps=20, precision=sys.argv[3], checkpoint_every=3),
        mixture=SlowMixture(),
        resume=sys.argv[2] == "resume",
    )
    print(summary.state, summary.step)
