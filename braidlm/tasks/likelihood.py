"""How probable given continuations are: what multiple choice and lm-evaluation-harness ask for.

    context        Q : w h a t ? A :
    continuations  " yes"   " no"

Options of one question share their context: it is read once, and its state is continued by each of
them. An option of one token needs no further pass: the context's last logits are all of its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from braidlm import state as states
from braidlm.generate.decode import prefill
from braidlm.generate.mode import precise_logits
from braidlm.segments import Segments
from braidlm.tasks.scoring import LOGITS_AT_ONCE, TOKENS_AT_ONCE


class Pair(NamedTuple):
    """A context and what may follow it."""

    context: np.ndarray
    """int64 (T,), at least one token."""
    continuation: np.ndarray
    """int64 (A,), at least one token."""


class Likelihood(NamedTuple):
    """What a model says of a pair."""

    logprob: float
    """log p of the continuation after its context, in nats."""
    is_greedy: bool
    """Whether every token of it is the most probable one (the first of equals)."""


def likelihoods(
    model: nn.Module,
    pairs: Sequence[Pair],
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """Return what a model says of each pair, in their order.

    Pairs with equal contexts are answered together; contexts of about equal length share a forward
    pass, padded on the right, which changes nothing.

    Args:
        model: called as `HybridLM` is; in evaluation mode, see `generate.mode.inference`.
        pairs: see `Pair`.
        batch_size: pairs of one forward pass at most, unless one context has more; None: as many
            as `TOKENS_AT_ONCE` holds.
        progress: told how many pairs each batch had.
    """
    found: dict[int, Likelihood] = {}
    for batch in batches(pairs, batch_size):
        numbers = [i for group in batch for i in group]
        contexts = [pairs[group[0]].context for group in batch]
        options = [[pairs[i].continuation for i in group] for group in batch]
        found |= zip(numbers, _answered(model, contexts, options), strict=True)
        if progress is not None:
            progress(len(numbers))
    return [found[i] for i in range(len(pairs))]


def batches(pairs: Sequence[Pair], batch_size: int | None = None) -> Iterator[list[list[int]]]:
    """Yield lists of groups of numbers of pairs; the pairs of a group have one context.

    The longest pairs come first. A context with very many continuations is read more than once.
    """
    groups: dict[bytes, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(pair.context.tobytes(), []).append(i)
    most = len(pairs) if batch_size is None else batch_size
    cut = [part for group in groups.values() for part in _bounded(pairs, group, most)]
    batch: list[list[int]] = []
    room = n_left = 0
    for group in sorted(cut, key=lambda g: (-sum(map(len, pairs[g[0]])), g)):
        n_tokens = _tokens(pairs, group)
        if batch and (n_tokens > room or len(group) > n_left):
            yield batch
            batch = []
        if not batch:
            room, n_left = TOKENS_AT_ONCE, most
        batch.append(group)
        room, n_left = room - n_tokens, n_left - len(group)
    if batch:
        yield batch


def _bounded(pairs: Sequence[Pair], group: list[int], most: int) -> Iterator[list[int]]:
    """Yield the pairs of a context, the longest first, in parts that one forward pass holds."""
    left = sorted(group, key=lambda i: (-len(pairs[i].continuation), i))
    while left:
        one = _tokens(pairs, left[:1])
        n = most if len(pairs[left[0]].continuation) == 1 else min(most, TOKENS_AT_ONCE // one)
        yield left[: max(1, n)]
        left = left[max(1, n) :]


def _tokens(pairs: Sequence[Pair], group: Sequence[int]) -> int:
    """Return how many tokens the options hold, the state that each of them copies included."""
    longest = len(pairs[group[0]].continuation)
    copies = 1 if longest == 1 else len(group)
    return copies * sum(map(len, pairs[group[0]]))


def _answered(
    model: nn.Module, contexts: Sequence[np.ndarray], options: Sequence[Sequence[np.ndarray]]
) -> list[Likelihood]:
    """Return what a model says of every option, in their order, contexts one after the other."""
    start = prefill(model, [context.tolist() for context in contexts])
    flat = [tokens for some in options for tokens in some]
    counts = torch.tensor([len(some) for some in options])
    which = torch.repeat_interleave(torch.arange(len(options)), counts).to(start.logits.device)
    wanted, is_real = _padded(flat, start.logits.device)
    logprobs = torch.zeros(wanted.shape, dtype=torch.float64, device=wanted.device)
    is_top = torch.ones_like(is_real)
    first = start.logits[which]
    logprobs[:, 0], is_top[:, 0] = _judged(first, wanted[:, 0])
    if wanted.shape[1] > 1:
        # Selecting copies: the state is continued as often as there are options.
        state = states.select(start.state, which)
        fed, is_fed = wanted[:, :-1], is_real[:, :-1]
        segments = None if bool(is_fed.all()) else Segments.from_mask(is_fed.cpu()).to(fed.device)
        hidden = model(fed, segments, state).hidden
        logprobs[:, 1:], is_top[:, 1:] = _judged_rows(model, hidden, wanted[:, 1:])
    total = (logprobs * is_real).sum(1).tolist()
    greedy = (is_top | ~is_real).all(1).tolist()
    return [Likelihood(*row) for row in zip(total, greedy, strict=True)]


def _padded(rows: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows of tokens (n, longest), zero at padding, and where they are real."""
    wanted = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    is_real = torch.zeros(wanted.shape, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        wanted[row, : len(tokens)] = torch.from_numpy(tokens)
        is_real[row, : len(tokens)] = True
    return wanted.to(device), is_real.to(device)


def _judged(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p (n,), fp64, of wanted tokens (n,), and whether each is the largest of (n, V)."""
    chosen = logits.gather(-1, wanted[:, None])[:, 0]
    return (chosen - logits.logsumexp(-1)).double(), logits.argmax(-1) == wanted


def _judged_rows(model: nn.Module, hidden: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Judge many positions (n, A), a bounded number of logits at a time."""
    flat, tokens = hidden.flatten(0, 1), wanted.flatten()
    n_logits = precise_logits(model, flat[:1]).shape[-1]
    at_once = max(1, LOGITS_AT_ONCE // n_logits)
    parts = [
        _judged(precise_logits(model, flat[i : i + at_once]), tokens[i : i + at_once])
        for i in range(0, len(tokens), at_once)
    ]
    logprobs, is_top = (torch.cat(part) for part in zip(*parts, strict=True))
    return logprobs.view(wanted.shape), is_top.view(wanted.shape)
