"""Declaration of the phonebook as training data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.config import Config

Order = Literal["standard", "reversed"]


class PhonebookSource(Config):
    """Look-ups in random phonebooks as training data."""

    kind: Literal["phonebook"] = "phonebook"
    """The source's kind."""
    name: str = "phonebook"
    """Name in metrics and results."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""
    lengths: tuple[int, ...] = Field(default=(256,), min_length=1)
    """Tokens of an item at most, filled from below; drawn evenly from these."""
    orders: tuple[Order, ...] = Field(default=("standard",), min_length=1)
    """standard: the names are asked after the book; reversed: they stand before it too."""
    n_digits: int = Field(default=7, ge=1, le=18)
    """Digits of a number; 7 or 10 are those of telephones."""
    n_examples: int = Field(default=2, ge=0)
    """Look-ups before the last one, all with loss; 2 as the task has them, more teach faster."""
    loss: Literal["answers", "all"] = "answers"
    """answers: the numbers asked for carry loss; all: every token does, as in a running text."""
