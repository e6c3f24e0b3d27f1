"""Our state in the place where transformers keeps its cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from braidlm import state as states


class BraidCache(Cache):
    """One state per row, and how many columns have been seen, padding included."""

    is_compileable = False  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.state: Any = None
        self.n_seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the columns seen, which is what `generate` cuts its input by."""
        return self.n_seen

    def replace(self, state: Any, n_new: int) -> None:
        """Take the state after `n_new` more columns."""
        self.state = state
        self.n_seen += n_new

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.n_seen = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order: beams that go on."""
        self.state = states.select(self.state, beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give every row `repeats` copies, one behind the other."""
        self.state = states.map_tensors(
            lambda t: torch.repeat_interleave(t, repeats, dim=0), self.state
        )

    def crop(self, max_length: int) -> None:
        """Refuse: a recurrence cannot be taken back.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"crop({max_length}): the state of a recurrence cannot be taken back")
