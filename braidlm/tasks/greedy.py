"""Prompts read once, then continued twice: by the right answer, for its loss, and greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braidlm import state as states
from braidlm.generate.decode import prefill
from braidlm.generate.mode import precise_logits
from braidlm.model import HybridLM
from braidlm.segments import Segments
from braidlm.tasks.scoring import LOGITS_AT_ONCE


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
