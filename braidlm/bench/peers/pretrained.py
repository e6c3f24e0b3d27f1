"""Models that are called as those of transformers are, whoever wrote them."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.bench.contender import Call, NoPeerError, Setting
from braidlm.bench.contender import Stamps as StampsOf
from braidlm.bench.peers.plain import PlainTraining
from braidlm.generate.mode import weights_dtype


class Built(NamedTuple):
    """A model in fp32, on any device."""

    model: Any
    name: str
    about: dict[str, Any]
    """What is to be said of it: `library` and more."""


def check_size(spec: Spec, model: Any, name: str) -> None:
    """Refuse a model of other shapes.

    Raises:
        NoPeerError: it has more or fewer parameters.
    """
    expected = cost(spec, 1).n_params
    found = sum(p.numel() for p in model.parameters())
    if found != expected:
        raise NoPeerError(f"its {name} has {found:,} parameters, not {expected:,}")


class Trained:
    """A model of that form that is trained."""

    def __init__(self, setting: Setting, built: Built) -> None:
        self.model, self.name, self.about = built
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self.model.to(setting.device).train()
        self._plain = PlainTraining(self.model, setting, self._loss)
        self.about["precision"] = self._plain.precision

    def _loss(self, rows: Tensor) -> Tensor:
        return self.model(input_ids=rows, labels=rows, use_cache=False).loss

    def update(self, rows: Tensor) -> Call:
        """Return forward, its own loss, backward, clipping and fused AdamW."""
        # Its loss shifts the labels by itself: T + 1 tokens would be one more than ours reads.
        return self._plain.update(rows[:, :-1].contiguous())

    def close(self) -> None:
        """Forget model, gradients and moments."""
        del self.model, self._plain


class Answering:
    """A model of that form that answers."""

    def __init__(self, setting: Setting, built: Built) -> None:
        self.model, self.name, self.about = built
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self.model.to(setting.device, weights_dtype(setting.answering_dtype)).eval()
        self.about["precision"] = f"{setting.answering_dtype} weights"

    def prefill(self, prompts: Tensor) -> Call:
        """Return a forward pass with its cache, and the head of the last token."""

        def call() -> None:
            with torch.inference_mode():
                out = self.model(input_ids=prompts, use_cache=True, logits_to_keep=1)
                out.logits[:, -1].argmax(-1).tolist()

        return call

    def generate(self, prompts: Tensor, new_tokens: int) -> StampsOf:
        """Return its own `generate`, greedy."""

        def call() -> list[float]:
            stamps = Stamps()
            self.model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                streamer=stamps,
            )
            return stamps.moments

        return call

    def close(self) -> None:
        """Forget the model."""
        del self.model


class Stamps:
    """What its `generate` gives the prompts and then each step's tokens, on the host."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Note the moment of a step."""
        if not self._is_prompt:
            self.moments.append(time.perf_counter())
        self._is_prompt = False

    def end(self) -> None:
        """Nothing is left to say."""
