"""Declaration of look-ups in phonebooks as a task."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.phonebook import Order
from braidlm.arch.tasks.base import RESULT_NAME, ModelTask


class PhonebookTask(ModelTask):
    """Look-ups in random phonebooks, after worked examples.

    Source: Jelassi et al. 2024 (arXiv 2402.01032), section 4; Waleffe et al. 2024 (arXiv
        2406.07887), section 3.3, for two examples and the reversed order.
    """

    kind: Literal["phonebook"] = "phonebook"
    """The task's kind."""
    name: str = Field(default="lookup", pattern=RESULT_NAME)
    """Name of the result."""
    lengths: tuple[int, ...] = Field(default=(256,), min_length=1)
    """Tokens of an item at most, its answer included; filled from below."""
    orders: tuple[Order, ...] = Field(default=("standard",), min_length=1)
    """standard: the names are asked after the book; reversed: they stand before it too."""
    n_digits: int = Field(default=7, ge=1, le=18)
    """Digits of a number."""
    n_examples: int = Field(default=2, ge=0)
    """Worked examples before the query."""
    n_items: int = Field(default=100, gt=0)
    """Items per order and length."""
    depth_bins: int = Field(default=5, gt=0)
    """Bins of the place in the book."""

    @model_validator(mode="after")
    def _levels_differ(self) -> Self:
        for field in ("lengths", "orders"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} = {list(values)}: every value may stand there once")
        return self
