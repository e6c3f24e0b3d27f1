"""Batched decoding: one prefill over all prompts, then one token per row and step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from braidlm import state as states
from braidlm.data.seeding import generator
from braidlm.errors import InputError
from braidlm.generate.compiled import CompiledStep, plain
from braidlm.generate.filters import Sampling, choose
from braidlm.generate.graph import GraphStep
from braidlm.generate.mode import device_of, inference, precise_logits
from braidlm.model import HybridLM
from braidlm.ops.greedy import BROKEN
from braidlm.segments import Segments

OnToken = Callable[[int, int], None]
"""Called with (row, token) as soon as the token is known."""


class Rows(NamedTuple):
    """The rows that are still being written."""

    numbers: list[int]
    """(n,) which prompts they belong to."""
    logits: Tensor
    """(n, V): of the next token."""
    state: Any
    """The model's state, one entry per row."""


def generate(
    model: HybridLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    bos_id: int | None = None,
    first_row: int = 0,
    stream: OnToken | None = None,
    step: CompiledStep | GraphStep | None = None,
) -> list[list[int]]:
    """Continue every prompt; a row's tokens do not depend on the rows beside it.

    Args:
        model: the model, on any device.
        prompts: token ids, of any lengths.
        max_new_tokens: tokens at most per prompt.
        temperature: see `Sampling`, as `top_p`, `top_k` and `seed`.
        top_p: see `Sampling`.
        top_k: see `Sampling`.
        seed: see `Sampling`.
        stop_ids: tokens that end a row; they are not part of its result.
        bos_id: what an empty prompt starts from.
        first_row: number of the first prompt in a longer list, so that cutting that list into
            batches changes nothing.
        stream: told each token as it comes.
        step: runs the steps; None: as they stand. The prefill is never compiled.

    Returns:
        For each prompt its new tokens, without the prompt.

    Raises:
        InputError: a setting outside its range, a token outside the vocabulary, an empty prompt
            without `bos_id`, or logits that are not finite.
    """
    sampling = Sampling(temperature, top_p, top_k, seed)
    results: list[list[int]] = [[] for _ in prompts]
    for row, token in stream_tokens(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
        bos_id=bos_id,
        first_row=first_row,
        step=step,
    ):
        results[row].append(token)
        if stream is not None:
            stream(row, token)
    return results


def stream_tokens(
    model: HybridLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Sequence[int] = (),
    bos_id: int | None = None,
    first_row: int = 0,
    step: CompiledStep | GraphStep | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) as the tokens come; arguments and errors as for `generate`."""
    sampling = sampling or Sampling()
    starts = _checked(prompts, model.spec.vocab_size, max_new_tokens, bos_id)
    if not starts or max_new_tokens == 0:
        return
    stops = frozenset(stop_ids)
    n_drawn = len(starts) if sampling.temperature > 0 else 0
    draws = [generator(sampling.seed, "sampling", first_row + i) for i in range(n_drawn)]
    with inference(model):
        rows = prefill(model, starts)
        if step is not None:
            step.check(model)
        if isinstance(step, CompiledStep):
            rows = rows._replace(state=plain(model.reserve(rows.state, max_new_tokens)))
    if isinstance(step, GraphStep):
        tokens = _next_tokens(rows, sampling, draws)
        further = step.run(tokens, rows.state, max_new_tokens - 1, sampling, draws)
        yield from _until_stopped(itertools.chain([tokens], further), stops)
        return
    ended: set[int] = set()
    for n_made in range(1, max_new_tokens + 1):
        tokens = _next_tokens(rows, sampling, draws)
        going = [i for i, t in enumerate(tokens) if t not in stops and rows.numbers[i] not in ended]
        for i in going:
            yield rows.numbers[i], tokens[i]
        if not going or n_made == max_new_tokens:
            return
        if step is None:
            rows = _step(model, rows, tokens, going)
        else:  # a row that has ended runs on: one row fewer would be another graph
            ended = set(rows.numbers) - {rows.numbers[i] for i in going}
            rows = _compiled_step(model, step, rows, tokens)


def _until_stopped(
    columns: Iterable[list[int]], stops: frozenset[int]
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) of each step's tokens (n,), of each row until it stops."""
    going: list[int] | None = None
    for tokens in columns:
        going = list(range(len(tokens))) if going is None else going
        for row in going:
            if tokens[row] == BROKEN:
                raise _not_finite(row)
        going = [row for row in going if tokens[row] not in stops]
        for row in going:
            yield row, tokens[row]
        if not going:
            return


def _not_finite(row: int) -> InputError:
    return InputError(f"the model's logits are not finite for prompt {row}")


def _checked(
    prompts: Sequence[Sequence[int]], vocab_size: int, max_new_tokens: int, bos_id: int | None
) -> list[np.ndarray]:
    """Return the prompts as (T,) int64, none of them empty."""
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens = {max_new_tokens}: must be 0 or more")
    starts = []
    for number, prompt in enumerate(prompts):
        ids = np.array(prompt, dtype=np.int64)  # checked at once: a long prompt is a long list
        if not len(ids) and bos_id is None:
            raise InputError(f"prompt {number} is empty: give bos_id, which it can start from")
        ids = ids if len(ids) else np.array([bos_id], dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= vocab_size)]
        if len(outside):
            raise InputError(
                f"prompt {number} holds token {outside[0]}: "
                f"the model's vocabulary is 0 .. {vocab_size - 1}"
            )
        starts.append(ids)
    return starts


def prefill(model: nn.Module, prompts: Sequence[Sequence[int] | np.ndarray]) -> Rows:
    """Run all prompts at once, padded on the right.

    Args:
        model: called as `HybridLM` is; in evaluation mode, see `generate.mode.inference`.
        prompts: token ids, at least one each.
    """
    # By numpy: torch shares so few numbers among threads, and waits for those that have no core.
    lengths = np.array([len(ids) for ids in prompts])
    tokens = np.zeros((len(prompts), lengths.max()), dtype=np.int64)
    for row, ids in enumerate(prompts):
        tokens[row, : len(ids)] = ids
    device, segments = device_of(model), None
    if lengths.min() < lengths.max():
        mask = np.arange(lengths.max()) < lengths[:, None]
        segments = Segments.from_mask(torch.from_numpy(mask)).to(device)
    out = model(torch.from_numpy(tokens).to(device), segments)
    last = torch.from_numpy(lengths - 1).to(device)
    hidden = out.hidden[torch.arange(len(prompts), device=device), last]
    return Rows(list(range(len(prompts))), precise_logits(model, hidden), out.state)


def _step(model: HybridLM, rows: Rows, tokens: list[int], going: list[int]) -> Rows:
    """Feed one token to each row of `going` and drop the others."""
    device = rows.logits.device
    with inference(model):
        state = rows.state
        if len(going) < len(tokens):
            state = states.select(state, torch.tensor(going, device=device))
        fed = torch.tensor([[tokens[i]] for i in going], device=device)
        out = model(fed, None, state)
        logits = precise_logits(model, out.hidden[:, 0])
        return Rows([rows.numbers[i] for i in going], logits, out.state)


def _compiled_step(model: HybridLM, step: CompiledStep, rows: Rows, tokens: list[int]) -> Rows:
    """Feed one token to every row."""
    with inference(model):
        logits, state = step(torch.tensor(tokens, device=rows.logits.device)[:, None], rows.state)
        return rows._replace(logits=logits, state=state)


def _next_tokens(rows: Rows, sampling: Sampling, draws: Sequence[np.random.Generator]) -> list[int]:
    """Choose one token for each row."""
    with torch.inference_mode():
        # One sum tells of every nan and inf; that it overflows alone is looked into.
        if not math.isfinite(float(rows.logits.sum())) and not bool(rows.logits.isfinite().all()):
            is_sound = rows.logits.isfinite().all(-1)
            bad = rows.numbers[int((~is_sound).nonzero()[0, 0])]
            raise _not_finite(bad)
        uniform = torch.zeros(0, dtype=torch.float64)
        if sampling.temperature > 0:
            uniform = torch.tensor([draws[n].random() for n in rows.numbers], dtype=torch.float64)
        return choose(rows.logits, sampling, uniform.to(rows.logits.device)).tolist()
