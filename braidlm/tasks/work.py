"""What every task is once it is made ready: items in batches, their scores, and a summary."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import nn

Row = dict[str, Any]
"""What is stored of one item: `id`, its scores, `group` where items are of several kinds."""


class Column(NamedTuple):
    """How a metric is made of the rows: sum of `value` over sum of `over`."""

    value: str
    """The row's entry that is summed."""
    over: str | None = None
    """The entry that it is divided by; None: the mean over items, each group counting the same."""


class Work(Protocol):
    """A task with its items, before any model has seen them."""

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """Every item's number once, as they are scored together: always the same batches."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over all that is asked and what is right; equal for equal items alone."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What else the items were made from, such as the source and the tokenizer."""
        ...

    @property
    def columns(self) -> Mapping[str, Column]:
        """The metrics that rows of two models can be paired for, the primary one first."""
        ...

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Ask one batch of a model in evaluation mode; return a row per item, in its order."""
        ...

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics, tables and what else a result says, from every item's row."""
        ...


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Return SHA-256 (hex) over integer arrays, their shapes included."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(repr(array.shape).encode())
        found.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return found.hexdigest()


def slices(n: int, at_once: int, first: int = 0) -> list[range]:
    """Cut the numbers first .. first + n - 1 into batches of at most `at_once`."""
    return [range(i, min(i + at_once, first + n)) for i in range(first, first + n, at_once)]
