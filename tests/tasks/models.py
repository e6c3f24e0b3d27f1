"""Models whose answers are known beforehand, and recipes and runs that ask them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.model import HybridLM, Output
from braidlm.runs import Run
from braidlm.segments import Segments

VOCAB = 300
BYTES = ByteTokenizer()
SPOKEN = 5.0
"""Logit of what a speaker says; all others are 0."""
SURE = 20.0
"""Logit of what a lookup finds; all others are 0."""


class Known(nn.Module, ABC):
    """Its hidden states are its logits; a subclass says which."""

    def __init__(self, vocab_size: int = VOCAB) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.somewhere = nn.Parameter(torch.zeros(()))

    @abstractmethod
    def logits(self, tokens: Tensor, segments: Segments | None) -> Tensor: ...

    def forward(
        self,
        tokens: Tensor,
        segments: Segments | None = None,
        state: None = None,
        return_state: bool = True,
    ) -> Output:
        assert not self.training
        assert not torch.is_grad_enabled()
        return Output(self.logits(tokens, segments), None, {})

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def loss(
        self, tokens: Tensor, targets: Tensor, segments: Segments | None, reduction: str
    ) -> Tensor:
        logits = self(tokens, segments).hidden
        flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        return flat.view(targets.shape)


class Uniform(Known):
    def logits(self, tokens: Tensor, segments: Segments | None) -> Tensor:
        return torch.zeros(*tokens.shape, self.vocab_size)


class Lookup(Known):
    """At each token: what followed its first occurrence in the row, if that is near enough."""

    def __init__(self, vocab_size: int = VOCAB, reach: int = 10**6) -> None:
        super().__init__(vocab_size)
        self.reach = reach

    def logits(self, tokens: Tensor, segments: Segments | None) -> Tensor:
        out = torch.zeros(*tokens.shape, self.vocab_size)
        for row, ids in enumerate(tokens.tolist()):
            for at, token in enumerate(ids):
                first = ids.index(token)
                if first < at and at - first < self.reach:
                    out[row, at, ids[first + 1]] = SURE
        return out


class Unigram(Known):
    """The same distribution everywhere; tokens without a probability share what is left."""

    def __init__(self, **probabilities: float) -> None:
        super().__init__()
        rest = (1 - sum(probabilities.values())) / (VOCAB - len(probabilities))
        p = torch.full((VOCAB,), rest)
        for character, value in probabilities.items():
            p[ord(character)] = value
        self.log_p = p.log()

    def logits(self, tokens: Tensor, segments: Segments | None) -> Tensor:
        return self.log_p.expand(*tokens.shape, VOCAB)


class Speaker(nn.Module, ABC):
    """Continues a text of bytes; its state is all the tokens so far, padded with -1."""

    reach = 12
    """At how many last positions of a call it speaks; nobody reads the others."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = None
        self.somewhere = nn.Parameter(torch.zeros(()))

    @abstractmethod
    def say(self, text: str) -> str:
        """What follows a text, "" for a line end."""

    def hears(self, text: str) -> bool:
        """Whether it speaks after a text at all."""
        return True

    def forward(
        self,
        tokens: Tensor,
        segments: Segments | None = None,
        state: Tensor | None = None,
        return_state: bool = True,
    ) -> Output:
        assert not self.training
        assert not torch.is_grad_enabled()
        hidden = torch.zeros(*tokens.shape, VOCAB)
        histories = []
        for row, new in enumerate(tokens.tolist()):
            seen = [] if state is None else [t for t in state[row].tolist() if t >= 0]
            n_new = len(new) if segments is None else int((segments.doc[row] >= 0).sum())
            for at, token in enumerate(new[:n_new]):
                seen.append(token)
                text = BYTES.decode(seen) if at >= n_new - self.reach else ""
                if text and self.hears(text):
                    said = self.say(text)[:1] or "\n"
                    hidden[row, at, said.encode()[0]] = SPOKEN
            histories.append(torch.tensor(seen))
        if state is not None:
            # Without gradients a state is donated: whoever needs it twice copies it.
            state.fill_(-1)
        longest = max(map(len, histories))
        padded = [F.pad(h, (0, longest - len(h)), value=-1) for h in histories]
        return Output(hidden, torch.stack(padded), {})  # type: ignore[arg-type]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def recipe(folder: Path, **changes: Any) -> Recipe:
    """A recipe over a folder of texts and a small recall source; `changes` are top-level tables."""
    texts = folder / "texts"
    if not texts.exists():
        texts.mkdir(parents=True)
        for i in range(24):
            (texts / f"{i:02d}.txt").write_text(f"{i}: " + "naïve € " * (i % 5) + "end\n" * 2)
    mixers = {"M": {"head_dim": 8, "d_state": 4, "chunk_size": 8}, "*": {"head_dim": 8}}
    plain = {
        "name": "small",
        "seed": 3,
        "model": {
            "pattern": "M*",
            "d_model": 16,
            "vocab_size": VOCAB,
            "mixers": mixers,
        },
        "data": {
            "seq_len": 32,
            "held_out": 0.5,
            "cache_dir": str(folder / "cache"),
            "sources": [
                {"kind": "text", "path": str(texts)},
                {"kind": "mqar", "vocab_size": 32, "token_offset": 260, "n_pairs": [2, 4]}
                | {"length": 24},
            ],
        },
        "train": {"device": "cpu"},
        "tasks": [
            {"kind": "lm", "seq_len": 16, "n_documents": 5, "bins": 4},
            {"kind": "mqar", "n_items": 12},
        ],
    }
    return Recipe.from_dict(plain | changes)


def saved_run(folder: Path, **changes: Any) -> Run:
    """A run directory with two checkpoints of an untrained model."""
    config = recipe(folder, **changes)
    run = Run.create(folder / "run", config.to_dict())
    torch.manual_seed(0)
    model = HybridLM(config.spec)
    for step in (1, 2):
        path = checkpoint.checkpoint_path(run.path, step)
        checkpoint.save(path, model, recipe=config.to_dict(), step=step)
        with torch.no_grad():
            model.embedding.weight.mul_(3.0)
    return run
