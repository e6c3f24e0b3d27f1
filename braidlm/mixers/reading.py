"""What a mixer's memory does with an input, as numbers: who attends to whom, what is forgotten.

A mixer that attends has ``scores(x, segments, keys, added)``, one that forgets has
``forgetting(x, segments)``; one that does both has both. They give inputs of formulas and no table
of T x T entries, and compute again what `forward` has computed: they are asked now and then only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from braidlm.ops.attention import Lent
from braidlm.segments import Segments


class Scores(NamedTuple):
    """What softmax attention compares, after norms, rotations and factors.

    Weights are softmax(cap(scale q k^T)) over what a query sees. With n streams the key at place j
    is that of token j // n in stream j % n.
    """

    q: Tensor
    """(B, T, Hq, P)"""
    k: Tensor
    """(B, n_streams T, Hkv, P): query head h asks key head h // (Hq / Hkv)."""
    scale: float | None
    """None: P ** -0.5."""
    spans: tuple[tuple[int, int | None], ...] = ((0, None),)
    """For each stream the distances in tokens at which a query sees its keys: the first, and one
    past the last; None: no end."""
    n_sinks: int = 0
    """Tokens at the beginning that every query sees behind them."""
    sink_logits: Tensor | None = None
    """(Hq,): a score of each head that takes weight and is no token."""
    softcap: float | None = None


class Forgetting(NamedTuple):
    """How a recurrence forgets: cell (i, j) keeps exp(-rate[i, j] step[t, i]) of itself at token t.

    A unit i is a head, a channel (Mamba-1), or a key channel of a head (KDA); those of one head
    stand side by side.
    """

    step: Tensor
    """(B, T, n_units), not negative, at least fp32"""
    rate: Tensor
    """(n_units, n_columns), not negative"""
    n_heads: int
    """1 where the channels belong to no head."""
    beta: Tensor | None = None
    """(B, T, n_heads): strength of a delta rule's write; 1 replaces all that the key finds."""

    def mean_decay(self, segments: Segments | None) -> Tensor:
        """Return the mean of what a cell keeps per token, a () tensor."""
        step = self.step.flatten(0, 1) if segments is None else self.step[segments.is_real]
        columns = [torch.exp(-rate * step).mean() for rate in self.rate.unbind(1)]
        return torch.stack(columns).mean()


@runtime_checkable
class Attends(Protocol):
    """A module that attends."""

    def scores(
        self,
        x: Tensor,
        segments: Segments | None,
        keys: Mapping[str, Lent],
        added: Tensor | None = None,
    ) -> Scores:
        """Return what is compared for x (B, T, width).

        Args:
            x: what the mixer reads.
            segments: where documents lie.
            keys: what is lent in this call, by letter.
            added: (B, T, projected width) that a use adds to the projection of x, or None.
        """
        ...


@runtime_checkable
class Forgets(Protocol):
    """A module with a decaying state."""

    def forgetting(self, x: Tensor, segments: Segments | None) -> Forgetting:
        """Return the decay of every token of x (B, T, width)."""
        ...
