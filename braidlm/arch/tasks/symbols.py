"""Declarations of tasks on generated symbols: MAD's six, and copying."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.symbols import MADName
from braidlm.arch.tasks.base import RESULT_NAME, ModelTask


class MADTask(ModelTask):
    """One of MAD's six synthetic tasks, on items that no training has seen.

    Source: Poli et al. 2024 (arXiv 2403.17844).
    """

    kind: Literal["mad"] = "mad"
    """The task's kind."""
    name: str = Field(default="mad", pattern=RESULT_NAME)
    """Name of the result."""
    task: MADName = "in_context_recall"
    """Which one."""
    source: str = ""
    """Name of the mad source whose distribution is tested; empty: the recipe's first one of this
    task, or the published baseline from token 0 on where there is none."""
    lengths: tuple[int, ...] = ()
    """Tokens of an item; empty: that of the source."""
    n_items: int = Field(default=200, gt=0)
    """Items per length; 1280 there."""

    @model_validator(mode="after")
    def _lengths_differ(self) -> Self:
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths = {list(self.lengths)}: every value may stand there once")
        return self


class CopyingTask(ModelTask):
    """Copies of uniform strings, or look-ups in them, on items that no training has seen.

    Source: Jelassi et al. 2024 (arXiv 2402.01032).
    """

    kind: Literal["copying"] = "copying"
    """The task's kind."""
    name: str = Field(default="copying", pattern=RESULT_NAME)
    """Name of the result."""
    source: str = ""
    """Name of the copying source whose distribution is tested; empty: the recipe's first one, or
    26 letters from token 0 on where there is none."""
    n_symbols: tuple[int, ...] = ()
    """Symbols of a string, also longer than those of the training; empty: those of the source."""
    n_items: int = Field(default=200, gt=0)
    """Items per length of the string."""

    @model_validator(mode="after")
    def _levels_differ(self) -> Self:
        if len(set(self.n_symbols)) < len(self.n_symbols):
            raise ValueError(
                f"n_symbols = {list(self.n_symbols)}: every value may stand there once"
            )
        return self
