"""What an instrument is: a formula over what a model's layers do with some documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from braidlm.analysis.capture import Layer, walk
from braidlm.analysis.inputs import Document, Inputs
from braidlm.arch import Sublayer
from braidlm.generate.mode import device_of
from braidlm.model import HybridLM
from braidlm.tasks.stats import Estimate, known

Row = dict[str, Any]
Tell = Callable[[int, int], None]
"""Called with (documents done, documents in all)."""


class Finding(NamedTuple):
    """What an instrument found; what a result file holds of it."""

    metric: str
    """The primary metric: a key of `metrics`."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Name -> value, stderr, n and unit, see `Estimate.as_metric`."""
    tables: Mapping[str, Sequence[Row]]
    """Rows by place, head, ...: what is drawn. Standard errors are over documents."""
    rows: Sequence[Row] = ()
    """One per document, with its `id`: kept beside the result."""


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode and the documents that it reads."""

    model: HybridLM
    inputs: Inputs
    layers: Collection[int] | None = None
    """Indices of the sublayers that are looked at; None: all."""

    def tokens(self, document: Document) -> Tensor:
        """Return (1, T) int64 on the model's device."""
        return torch.from_numpy(document.tokens)[None].to(device_of(self.model))

    def walk(self, document: Document) -> Iterator[Layer]:
        """Yield the sublayers that are looked at, see `capture.walk`."""
        return walk(self.model, self.tokens(document), self.layers)


@dataclass(frozen=True)
class Instrument:
    """One instrument."""

    name: str
    """Lower case and dashes: the result is ``analysis-<name>.json``."""
    title: str
    """What it shows, in a few words."""
    unit: str
    """Of its primary metric."""
    source: str
    """Paper and equation, or "own"."""
    why_not: Callable[[Sequence[Sublayer]], str | None]
    """None if there is something to measure in these sublayers, otherwise why not."""
    run: Callable[[Subject, Tell], Finding]
    """Measure; without gradients unless `needs_grad`."""
    needs: Literal["any", "text", "recall"] = "any"
    """Documents that it can use: text, prompts of a recall task, or both."""
    needs_grad: bool = False


def over_documents(
    statistic: Callable[[np.ndarray], float], per_document: np.ndarray | Sequence[np.ndarray]
) -> Estimate:
    """Return a statistic of the mean over documents, with its jackknife error over documents.

    Every document counts the same. var = (n - 1) / n sum_i (s_i - mean_j s_j)^2, where s_i is the
    statistic without document i; for the mean itself this is s / sqrt(n).

    Args:
        statistic: of an array (...) that is a mean over documents.
        per_document: (n, ...), what each document gave.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, eq. 11.5.
    """
    values = np.asarray(per_document, dtype=np.float64)
    n, total = len(values), values.sum(0)
    value = float(statistic(total / n))
    if n < 2:
        return Estimate(value, math.nan, n)
    left = np.array([statistic((total - one) / (n - 1)) for one in values])
    return Estimate(value, math.sqrt((n - 1) / n * np.square(left - left.mean()).sum()), n)


def item(values: np.ndarray) -> float:
    """Return the one entry of an array: the statistic of a plain mean."""
    return values.item()


def cells(name: str, found: Estimate) -> Row:
    """Return the entries of a table row: the value and its standard error."""
    return {name: known(found.value), f"{name}_stderr": known(found.stderr)}
