"""What a law asks of a model, whoever wrote it: tokens, mask and cache in, logits and cache out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

AnyModel = TypeVar("AnyModel", bound=nn.Module)


class NotApplicableError(Exception):
    """A law says nothing about this model; the message is one clause that says why."""


class Drawn(NamedTuple):
    """Initial values of one parameter and the range that they belong to."""

    name: str
    """The parameter, and what was computed of it, such as "layers.0.dt_bias: dt"."""
    values: Tensor
    low: float
    high: float
    source: str
    """Where the range stands."""


class Account(NamedTuple):
    """A number that was predicted, and the same number counted."""

    what: str
    predicted: int
    measured: int


class Subject(Protocol):
    """A causal language model under judgement. B rows, T tokens, V tokens of the vocabulary."""

    name: str
    vocab_size: int
    device: torch.device
    span: int
    """Tokens of the largest chunk or window: lengths below, at and beyond it are tried."""
    continues_right_padding: bool
    """Whether its documentation lets a right-padded batch be continued."""

    @property
    def model(self) -> nn.Module:
        """The module that holds its weights."""
        ...

    def __call__(
        self, tokens: Tensor, mask: Tensor | None = None, cache: Any = None, keep: bool = True
    ) -> tuple[Tensor, Any]:
        """Continue from a cache.

        Args:
            tokens: (B, T) int64.
            mask: (B, T) bool, true at real tokens of this call; None: all are.
            cache: what an earlier call returned; it may be written in place.
            keep: whether the new cache is wanted; training does without.

        Returns:
            Logits (B, T, V), and the cache after the last token, or None.
        """
        ...

    def pack(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return logits (1, T, V) of documents of these lengths behind each other in one row.

        Raises:
            NotApplicableError: it cannot keep documents in a row apart.
        """
        ...

    def rechunked(self, chunk_size: int) -> Self:
        """Return the same weights with another chunk size.

        Raises:
            NotApplicableError: its configuration has none.
        """
        ...

    def typed(self, dtype: torch.dtype) -> Self:
        """Return the same weights in another dtype; fp64 means fp64 throughout."""
        ...

    def drawn(self, seed: int) -> Iterator[Drawn]:
        """Yield the dynamics' initial values in a fresh model of this configuration.

        Raises:
            NotApplicableError: it has no recurrence.
        """
        ...

    def accounts(self, n_tokens: int) -> Iterator[Account]:
        """Yield what its configuration predicts and what is there, after `n_tokens` tokens.

        Raises:
            NotApplicableError: nothing predicts it.
        """
        ...


def rechunked(model: AnyModel, chunk_size: int) -> AnyModel:
    """Return a copy of a model whose modules work in chunks of this size.

    Raises:
        NotApplicableError: no module has a chunk size.
    """
    model = copy.deepcopy(model)
    chunked = [m for m in model.modules() if isinstance(getattr(m, "chunk_size", None), int)]
    if not chunked:
        raise NotApplicableError("no mixer has a chunk size of its own")
    for module in chunked:
        setattr(module, "chunk_size", chunk_size)  # noqa: B010 (no module declares it)
    return model
