"""Declaration of look-ups of several names at once in a phonebook, as a question in text."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.phonebook import Order
from braidlm.arch.tasks.base import RESULT_NAME, ModelTask, check_levels


class PhonebookKeysTask(ModelTask):
    """Several names of one random phonebook are looked up in one answer, after a worked example.

    Source: Jelassi et al. 2024 (arXiv 2402.01032), section 4, for the book; RULER's
        niah_multiquery (arXiv 2404.06654) for several keys at once.
    """

    kind: Literal["phonebook_keys"] = "phonebook_keys"
    """The task's kind."""
    name: str = Field(default="phonebook_keys", pattern=RESULT_NAME)
    """Name of the result."""
    lengths: tuple[int, ...] = Field(default=(512,), min_length=1)
    """Tokens of bos, prompt and answer at most; filled from below."""
    n_keys: int = Field(default=4, gt=0)
    """Names asked at once; RULER asks 4 of its keys."""
    depths: tuple[float, ...] = ()
    """Where the names that are asked stand, in a row, from 0 to 100 percent of the book; empty:
    anywhere, apart from each other."""
    order: Order = "standard"
    """standard: the names are asked after the book; reversed: they stand before it too."""
    n_digits: int = Field(default=7, ge=1, le=18)
    """Digits of a number."""
    n_examples: int = Field(default=1, ge=0)
    """Worked examples before the query, each of `n_keys` other names."""
    n_items: int = Field(default=100, gt=0)
    """Items per length, or per length and depth."""

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        check_levels(self.lengths, self.depths)
        return self
