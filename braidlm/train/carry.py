"""States that go from one update to the next: truncated backpropagation through time.

A lane's state behind a segment is the state before its next one, cut off the graph. A document that
begins in a row begins with nothing. So the outputs are those of one long document, and the
gradients those of backpropagation through it with the graph cut between segments.

Source: Williams and Peng 1990 (Neural Computation 2, 490-501); segments with a cache of keys and
    values: Dai et al. 2019 (arXiv 1901.02860).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from braidlm import state as states
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.segments import Segments


class Carry:
    """What the lanes of each micro-batch remember.

    Args:
        model: whose states they are.
        kv_tokens: tokens of each document that attention without a window keeps; None: all.
    """

    def __init__(self, model: HybridLM, kv_tokens: int | None = None) -> None:
        self.model, self.kv_tokens = model, kv_tokens
        self.states: dict[int, Any] = {}

    def loss(
        self,
        micro: int,
        tokens: Tensor,
        targets: Tensor,
        segments: Segments,
        continues: Tensor,
        reduction: Literal["sum", "none"],
        with_aux: bool = False,
    ) -> Any:
        """Return what `HybridLM.loss` returns, and remember the states behind these rows.

        Args:
            micro: which micro-batch: the same lanes at every step.
            tokens: (B, T) int64.
            targets: (B, T) int64.
            segments: where documents lie; every row begins with one.
            continues: (B,) bool, whether that one goes on.
            reduction: "sum" or "none".
            with_aux: whether `Output.aux` is returned too.
        """
        before = begin(self.states.get(micro), segments, continues.to(tokens.device))
        loss, after, aux = self.model.carried_loss(
            tokens, targets, segments, before, reduction=reduction, with_aux=with_aux
        )
        self.states[micro] = self._kept(after, segments)
        return (loss, aux) if with_aux else loss

    def _kept(self, after: Sequence[Any], segments: Segments) -> Any:
        """Return the states of the last document of each row."""
        n_rows = segments.shape[0]
        last = torch.bincount(segments.rows, minlength=n_rows).cumsum(0) - 1
        kept = states.detach(states.select(tuple(after), last))
        return kept if self.kv_tokens is None else self.model.shorten(kept, self.kv_tokens)

    def stored(self) -> list[list[Tensor]]:
        """Return the tensors of each micro-batch's states, for a checkpoint."""
        return [states.tensors(self.states[micro]) for micro in sorted(self.states)]

    def load(self, stored: Sequence[Sequence[Tensor]]) -> None:
        """Put `stored` back.

        Raises:
            InputError: states of another model.
        """
        device = self.model.embedding.weight.device
        with torch.no_grad():
            form = self.model(torch.zeros(1, 1, dtype=torch.int64, device=device)).state
        for micro, held in enumerate(stored):
            if len(held) != len(states.tensors(form)):
                raise InputError(
                    f"the carried states have {len(held)} tensors, expected "
                    f"{len(states.tensors(form))}"
                )
            rest = iter(held)
            self.states[micro] = states.map_tensors(lambda _, r=rest: next(r).to(device), form)


def begin(state: Any, segments: Segments, continues: Tensor) -> Any:
    """Return the state of each document of a call; None: all begin here.

    Args:
        state: one entry per row, or None.
        segments: where documents lie.
        continues: (B,) bool, whether a row's first document goes on from the row's entry.

    Returns:
        One entry per document: the row's own, or an empty one, which is all zeros.
    """
    if state is None:
        return None
    goes_on = continues[segments.rows] & (segments.starts == 0)

    def of_documents(held: Tensor) -> Tensor:
        mine = held.index_select(0, segments.rows)
        shape = (-1, *(1,) * (mine.dim() - 1))
        return torch.where(goes_on.view(shape), mine, torch.zeros_like(mine))

    return states.map_tensors(of_documents, state)
