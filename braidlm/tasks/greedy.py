"""Prompts read once, then continued twice: by the right answer, for its loss, and greedily."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braidlm import state as states
from braidlm.errors import InputError
from braidlm.generate.decode import prefill
from braidlm.generate.filters import Sampling
from braidlm.generate.graph import GraphStep
from braidlm.generate.mode import device_of, precise_logits
from braidlm.model import HybridLM
from braidlm.ops.greedy import BROKEN
from braidlm.segments import Segments
from braidlm.tasks.scoring import LOGITS_AT_ONCE

LEAST_RECORDED = 6
"""Tokens from which on recording their steps takes less than running them as they stand."""

_steps: ContextVar[list[GraphStep | None] | None] = ContextVar("_steps", default=None)
"""What `steps_kept` keeps: nothing yet, a recorded step, or that steps cannot be recorded."""


@contextlib.contextmanager
def steps_kept() -> Iterator[None]:
    """Record the steps of one model's batches once while inside, where they have one form."""
    before = _steps.set([])
    try:
        yield
    finally:
        _steps.reset(before)


def answer(
    model: nn.Module,
    prompts: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    n_new: int,
    is_done: Callable[[list[int]], bool] | None = None,
) -> tuple[list[float], list[list[int]]]:
    """Return each right answer's loss in nats, and `n_new` greedily decoded tokens.

    With `is_done` there may be fewer: decoding ends once it says yes to what every row has.

    Args:
        model: called as `HybridLM` is; in evaluation mode, see `generate.mode.inference`.
        prompts: int64 (T_i,) tokens, at least one each.
        answers: int64 (A_i,) tokens that should follow, at least one each.
        n_new: tokens to decode, at least 1.
        is_done: told the tokens of one row, after each of them until it says yes.
    """
    start = prefill(model, [prompt.tolist() for prompt in prompts])
    # Going on writes into a state, and two continuations start from this one.
    copy = states.map_tensors(torch.clone, start.state)
    losses = _forced(model, start.logits, copy, answers)
    given = _continued(model, start.logits.argmax(-1), start.state, n_new, is_done)
    return losses, given


def continued(
    model: nn.Module,
    prompts: Sequence[np.ndarray],
    n_new: int,
    is_done: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Return `n_new` greedily decoded tokens after each prompt; arguments as for `answer`."""
    start = prefill(model, [prompt.tolist() for prompt in prompts])
    return _continued(model, start.logits.argmax(-1), start.state, n_new, is_done)


def _continued(
    model: nn.Module,
    tokens: Tensor,
    state: Any,
    n_new: int,
    is_done: Callable[[list[int]], bool] | None,
) -> list[list[int]]:
    """Return `tokens` (n,) and what follows them greedily, row by row."""
    if isinstance(model, HybridLM) and is_recorded(tokens, n_new):
        found = _ahead(model, tokens, state, n_new, is_done)
        if found is not None:
            return found
    if tokens.is_cuda and isinstance(model, HybridLM):
        # With a place for every token no attention asks the GPU how many it holds.
        state = model.reserve(state, n_new)
    given = [tokens]
    going = set(range(len(tokens)))
    for _ in range(n_new - 1):
        if is_done is not None:
            rows = torch.stack(given, 1).tolist()
            going -= {row for row in going if is_done(rows[row])}
            if not going:
                break
        out = model(tokens[:, None], None, state)
        tokens, state = precise_logits(model, out.hidden[:, 0]).argmax(-1), out.state
        given.append(tokens)
    return torch.stack(given, 1).tolist()


def is_recorded(tokens: Tensor, n_new: int) -> bool:
    """Whether the steps behind `tokens` (n,) are recorded, if they can be."""
    return tokens.is_cuda and n_new >= LEAST_RECORDED


def _ahead(
    model: HybridLM,
    tokens: Tensor,
    state: Any,
    n_new: int,
    is_done: Callable[[list[int]], bool] | None,
) -> list[list[int]] | None:
    """Do what `_continued` does by recorded steps, some of them ahead; the state stays as it is.

    None: they cannot be recorded, or logits are not finite, of which no choice is told.
    """
    step = _step_for(model)
    if step is None:
        return None
    first = tokens.tolist()
    further = step.run(first, state, n_new - 1, Sampling(temperature=0.0), [])
    rows: list[list[int]] = [[] for _ in first]
    going = set(range(len(rows)))
    try:
        for column in itertools.chain([first], further):
            if BROKEN in column:
                return None
            for row, token in zip(rows, column, strict=True):
                row.append(token)
            if is_done is not None:
                going -= {row for row in going if is_done(rows[row])}
                if not going:
                    break
    except InputError:
        if (kept := _steps.get()) is not None:
            kept[:] = [None]
        return None
    return rows


def _step_for(model: HybridLM) -> GraphStep | None:
    """Return what records the steps of this model under this autocast; None: nothing can."""
    narrow = torch.is_autocast_enabled(device_of(model).type)
    dtype = "bf16" if narrow else "fp32"
    kept = _steps.get()
    if kept == [None]:
        return None
    if kept and kept[0] is not None and kept[0].model is model and kept[0].dtype == dtype:
        return kept[0]
    step = GraphStep(model, dtype=dtype)
    if kept is not None:
        kept[:] = [step]
    return step


def _forced(
    model: nn.Module, first: Tensor, state: Any, answers: Sequence[np.ndarray]
) -> list[float]:
    """Return the loss of each answer after its prompt; `first` (n, V) predicts its first token."""
    lengths = [len(tokens) for tokens in answers]
    wanted = torch.zeros(len(answers), max(lengths), dtype=torch.int64)
    is_real = torch.zeros(wanted.shape, dtype=torch.bool)
    for row, tokens in enumerate(answers):
        wanted[row, : len(tokens)] = torch.from_numpy(tokens)
        is_real[row, : len(tokens)] = True
    segments = None if bool(is_real.all()) else Segments.from_mask(is_real).to(first.device)
    wanted, is_real = wanted.to(first.device), is_real.to(first.device)
    # The last token is fed as well: an answer of one token then needs no case of its own.
    hidden = model(wanted, segments, state).hidden[:, :-1]
    nll = torch.zeros(wanted.shape, dtype=torch.float64, device=first.device)
    nll[:, 0] = _losses(first, wanted[:, 0])
    # Long answers of many rows: a few columns of logits at a time.
    step = max(1, LOGITS_AT_ONCE // first.numel())
    for begin in range(0, hidden.shape[1], step):
        part = slice(begin + 1, begin + 1 + step)
        logits = precise_logits(model, hidden[:, begin : begin + step])
        nll[:, part] = _losses(logits, wanted[:, part])
    return (nll * is_real).sum(1).tolist()


def _losses(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss (...) in nats of each wanted token; logits (..., V)."""
    return (logits.logsumexp(-1) - logits.gather(-1, wanted[..., None])[..., 0]).double()
