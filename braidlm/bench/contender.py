"""What is timed: a model of ours or of another library, and the calls that it offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from braidlm.arch import Recipe
from braidlm.bench.plan import Plan

Call = Callable[[], Any]
Stamps = Callable[[], Sequence[float]]
"""Makes tokens; returns the moments (s, of `time.perf_counter`) at which each was known."""


@dataclass(frozen=True)
class Setting:
    """What every contender is given."""

    recipe: Recipe
    plan: Plan
    device: torch.device
    training_dtype: str
    """"fp32", or "bf16": autocast over fp32 weights."""
    answering_dtype: str
    """"fp32" or "bf16", of the weights."""


class Contender(Protocol):
    """One model in one library, on its device."""

    name: str
    """Such as "braid" or "transformers bamba"."""
    about: dict[str, Any]
    """What runs: versions, precision, kernels."""
    faults: list[str]
    """Where bytes or parameters are not those that were declared; ours alone is asked."""
    allocated: dict[str, int]
    """kv_bytes and state_bytes behind the newest prompts; ours alone is asked."""

    def close(self) -> None:
        """Forget the model."""
        ...


class Trainee(Contender, Protocol):
    """A model that is trained."""

    def update(self, rows: Tensor) -> Call:
        """Return one training step on rows (B, T + 1): each token but the first is a target.

        The rows lie on the host; ours and theirs move them.
        """
        ...


class Answerer(Contender, Protocol):
    """A model that answers."""

    def prefill(self, prompts: Tensor) -> Call:
        """Return what reads prompts (B, T) and tells the host the most probable next tokens."""
        ...

    def generate(self, prompts: Tensor, new_tokens: int) -> Stamps:
        """Return the library's own greedy decoding of prompts (B, T)."""
        ...


class NoPeerError(Exception):
    """A library is not installed, or has no model of these shapes; says why."""


@dataclass(frozen=True)
class Library:
    """Where contenders come from."""

    name: str
    trainee: Callable[[Setting], Trainee]
    """Raises `NoPeerError`."""
    answerer: Callable[[Setting], Answerer]
    """Raises `NoPeerError`."""
    is_installed: Callable[[], bool]
    """Whether there is anything to ask."""
    prepare: Callable[[Setting], object] = lambda setting: None
    """Imports what it needs, so that nobody's memory holds that, and refuses what it cannot:
    raises `NoPeerError`."""
