"""Steps that run ahead of the host: each chooses its token and feeds it to the next by itself.

All that a step reads and writes lies in the same memory for ever, so that it can be recorded once
and replayed. The host sends random numbers for several steps, starts them, and reads their tokens
while the next ones run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from braidlm import state as states
from braidlm.generate.filters import Sampling, choose
from braidlm.ops.greedy import greedy, tell
from braidlm.recording import Record

AHEAD = 8
"""Steps that are started together; two such groups run before the first one is read."""


class Told(NamedTuple):
    """What a group of steps gives, as soon as it is there."""

    tokens: Tensor
    """(k, n) int64, on the host."""
    done: torch.cuda.Event | None
    """Passed when `tokens` is filled; None: it is."""


class Running:
    """A step for a number of rows, a form of the state and a way to choose.

    Args:
        step: takes tokens (n, 1) and a state; gives logits (n, V) and the state after them.
        like: a state of the form that all runs have; its values do not matter.
        n_rows: n.
        sampling: how tokens are chosen; its seed does not matter.
        record: makes of a step what repeats it.
        device: where all of it is.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Any], tuple[Tensor, Any]],
        like: Any,
        n_rows: int,
        sampling: Sampling,
        record: Record,
        device: torch.device,
    ) -> None:
        self.step, self.sampling = step, sampling
        self.tokens = torch.zeros(n_rows, 1, dtype=torch.int64, device=device)
        self.state = states.map_tensors(torch.zeros_like, like)
        self.uniform = torch.zeros(AHEAD, n_rows, dtype=torch.float64, device=device)
        self.told = torch.zeros(AHEAD, n_rows, dtype=torch.int64, device=device)
        self.at = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.repeat = record(self._body)

    def _body(self) -> None:
        """One step; no number in it comes from the host or goes there."""
        logits, state = self.step(self.tokens, self.state)
        if self.sampling.temperature == 0:
            greedy(logits, self.tokens, self.told, self.at)
        else:
            chosen = choose(logits, self.sampling, self.uniform.gather(0, self.at[None])[0])
            tell(logits, chosen, self.tokens, self.told, self.at)
        _into(self.state, state)

    def begin(self, tokens: Sequence[int], state: Any) -> None:
        """Put the first step's tokens and a state of the known form where the steps read them."""
        self.tokens.copy_(torch.tensor(tokens)[:, None])
        _into(self.state, state)

    def start(self, n_steps: int, draws: Sequence[np.random.Generator]) -> Told:
        """Start up to `AHEAD` steps and return before they are done."""
        if self.sampling.temperature > 0:
            drawn = [[draw.random() for draw in draws] for _ in range(n_steps)]
            self.uniform[:n_steps].copy_(self._near(torch.tensor(drawn, dtype=torch.float64)))
        self.at.zero_()
        for _ in range(n_steps):
            self.repeat()
        if not self.told.is_cuda:
            return Told(self.told[:n_steps].clone(), None)
        tokens = torch.empty(n_steps, self.told.shape[1], dtype=torch.int64, pin_memory=True)
        tokens.copy_(self.told[:n_steps], non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return Told(tokens, done)

    def _near(self, numbers: Tensor) -> Tensor:
        """Numbers of the host on their way to the steps, which do not wait for each other."""
        if not self.uniform.is_cuda:
            return numbers
        return numbers.pin_memory().to(self.uniform.device, non_blocking=True)


def columns(start: Callable[[int], Told], n_steps: int) -> Iterator[list[int]]:
    """Yield the tokens (n,) of each of `n_steps` steps, in order, two groups of them ahead."""
    told: deque[Told] = deque()
    while n_steps or told:
        while n_steps and len(told) < 2:
            n = min(AHEAD, n_steps)
            told.append(start(n))
            n_steps -= n
        tokens, done = told.popleft()
        if done is not None:
            done.synchronize()
        yield from tokens.tolist()


def _into(held: Any, new: Any) -> None:
    """Write a state's values into the memory of another; what lies there already stays."""
    moved: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for a, b in zip(states.tensors(held), states.tensors(new), strict=True):
        if a.data_ptr() != b.data_ptr():
            into, values = moved.setdefault(a.dtype, ([], []))
            into.append(a)
            values.append(b)
    for into, values in moved.values():
        torch._foreach_copy_(into, values)  # pyright: ignore[reportPrivateImportUsage]
