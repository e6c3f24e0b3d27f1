"""Multi-query associative recall: are values found again by their keys, and by how much.

One item with two pairs (k: keys, v: values, x: random symbols); the model answers at each query:

    tokens          k3 v7 k1 v4 x  x  k1 x  x  x  k3 x
    answers         .  .  .  .  .  .  v4 .  .  .  v7 .
    counterfactual  k3 v9 k1 v4 x  x  k1 x  x  x  k3 x

accuracy: share of queries at which the answer has the largest logit of the whole vocabulary (an
answer that ties with m others counts 1 / (m + 1)). graded: the answer's loss after the
counterfactual, where the pair that is asked for holds another value, minus its loss after the item
itself, in nats, for one random pair per item: how much the pair in the context tells the model, 0
for none, even where the answer is not yet the first choice. Items come from a stream that training
never draws from, and are the same for every run, so that two models answer the same questions.
Standard errors are over items. Over several numbers of pairs each number counts the same.

Source: Arora et al. 2023 (arXiv 2312.04927) for the items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.cost import cost
from braidlm.arch.experiment import MQARSource, MQARTask
from braidlm.data.mqar import MQARItems, counterfactual
from braidlm.data.seeding import EVAL, generator
from braidlm.data.streams import eval_mqar_items
from braidlm.errors import InputError
from braidlm.generate.mode import device_of
from braidlm.tasks.scoring import TOKENS_AT_ONCE, Progress
from braidlm.tasks.stats import Estimate, known, mean, mean_of, ratio, share

LOGITS_AT_ONCE = 2**24
"""Logits of one forward pass at most, unless one item has more."""


class Level(NamedTuple):
    """What was measured with one number of pairs, on n items of D pairs."""

    n_pairs: int
    hits: np.ndarray
    """(n, D): 1 where the answer was given, 0 where not, a share in a tie."""
    loss: np.ndarray
    """(n, D): loss of the answer, nats."""
    gap: np.ndarray
    """(n, D): tokens from the pair's key to the query."""
    graded: np.ndarray
    """(n,): rise of the loss of one answer under the counterfactual, nats."""


def run_mqar(
    task: MQARTask, model: nn.Module, recipe: Recipe, progress: Progress | None = None
) -> dict[str, Any]:
    """Ask for every pair of every item; return a result's payload.

    Metrics: accuracy (primary), graded and answer_nll (nats), chance (one value out of all),
    state_bytes (fp32) and kv_bytes (bf16) of one sequence of the task's length. Tables: by_pairs
    and by_gap. `seq_len`, `trained_seq_len` and `is_extrapolated` say whether the items are longer
    than the trained ones.

    Raises:
        InputError: a source that is not there, or pairs that do not fit into the item.
    """
    source = _source(task, recipe)
    length = task.length or source.length
    drawn = [_items(task, source, n, length) for n in task.n_pairs or source.n_pairs]
    levels = []
    for items in drawn:
        levels.append(measure(model, items, recipe.spec.vocab_size))
        if progress is not None:
            progress(len(levels) * task.n_items, len(drawn) * task.n_items)
    payload = summary(levels, source.vocab_size - source.vocab_size // 2)
    payload["metrics"] |= _cache_bytes(recipe, length)
    return payload | {
        "seq_len": length,
        "trained_seq_len": source.length,
        "is_extrapolated": length > source.length,
    }


def describe_mqar(task: MQARTask, recipe: Recipe) -> str:
    """Draw one item in symbols, its answers behind arrows."""
    source = _source(task, recipe)
    length, n_pairs = task.length or source.length, (task.n_pairs or source.n_pairs)[0]
    items = _items(task, source, n_pairs, length)
    answers = dict(zip(items.query_positions[0].tolist(), items.answers[0].tolist(), strict=True))
    words = []
    for at, token in enumerate(items.tokens[0].tolist()):
        asked = f" -> {_symbol(answers[at], source)}," if at in answers else ""
        words.append(_symbol(token, source) + asked)
    return f"{n_pairs} pairs in {length} tokens: {' '.join(words)}"


def measure(model: nn.Module, items: MQARItems, vocab_size: int) -> Level:
    """Answer every query of the items, and one query per item again under its counterfactual.

    Args:
        model: called as `HybridLM` is; in evaluation mode, see `generate.mode.inference`.
        items: n items of D pairs.
        vocab_size: of the model; it bounds how many queries are answered at once.
    """
    n, n_pairs = items.answers.shape
    loss, hits = _answer(model, items.tokens, items.query_positions, items.answers, vocab_size)
    rng = generator(0, EVAL, "counterfactual", n, n_pairs)
    pairs, rows = rng.integers(n_pairs, size=n), np.arange(n)
    other = counterfactual(items, pairs, rng)
    asked, answers = (v[rows, pairs, None] for v in (items.query_positions, items.answers))
    misled, _ = _answer(model, other.tokens, asked, answers, vocab_size)
    gap = items.query_positions - items.pair_positions[:, :, -1]
    return Level(n_pairs, hits, loss, gap, misled[:, 0] - loss[rows, pairs])


def _answer(
    model: nn.Module,
    tokens: np.ndarray,
    positions: np.ndarray,
    answers: np.ndarray,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return loss (n, Q) in nats and share of a right answer (n, Q) at `positions` (n, Q)."""
    device = device_of(model)
    n_logits = positions.shape[1] * vocab_size
    at_once = max(1, min(TOKENS_AT_ONCE // tokens.shape[1], LOGITS_AT_ONCE // n_logits))
    losses, shares = [], []
    for first in range(0, len(tokens), at_once):
        part = slice(first, first + at_once)
        given = (tokens[part], positions[part], answers[part])
        x, where, wanted = (torch.from_numpy(v).to(device) for v in given)
        hidden = model(x, return_state=False).hidden
        hidden = hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1]))
        # In bf16 the largest logits often tie, which would hide the choice.
        with torch.autocast(device.type, enabled=False):
            logits = model.head(hidden.float())  # type: ignore[operator]
        answer = logits.gather(-1, wanted[..., None])
        losses.append((logits.logsumexp(-1) - answer[..., 0]).double().cpu().numpy())
        is_top = logits == logits.amax(-1, keepdim=True)
        hits = is_top.gather(-1, wanted[..., None])[..., 0] / is_top.sum(-1)
        shares.append(hits.double().cpu().numpy())
    return np.concatenate(losses), np.concatenate(shares)


def summary(levels: list[Level], n_values: int) -> dict[str, Any]:
    """Return metric, metrics and tables; `n_values` is the number of value symbols."""
    per_level = [_estimates(level) for level in levels]
    units = {"accuracy": "share", "graded": "nats", "answer_nll": "nats"}
    overall = {name: mean_of([found[name] for found in per_level]) for name in units}
    metrics = {name: found.as_metric(units[name]) for name, found in overall.items()}
    n = overall["accuracy"].n
    metrics["chance"] = exact(1 / n_values, n, "share")
    by_pairs = [
        {
            "n_pairs": level.n_pairs,
            "accuracy": known(found["accuracy"].value),
            "accuracy_stderr": known(found["accuracy"].stderr),
            "graded": known(found["graded"].value),
            "graded_stderr": known(found["graded"].stderr),
            "in_context_chance": 1 / level.n_pairs,
            "n": len(level.graded),
        }
        for level, found in zip(levels, per_level, strict=True)
    ]
    primary = {key: metrics["accuracy"][key] for key in ("value", "stderr", "n")}
    tables = {"by_pairs": by_pairs, "by_gap": by_gap(levels)}
    return {"metric": "accuracy", **primary, "metrics": metrics, "tables": tables}


def exact(value: float, n: int, unit: str) -> dict[str, Any]:
    """Return the entry of a number that is computed, not measured: it has no standard error."""
    return {"value": value, "stderr": None, "n": n, "unit": unit}


def _estimates(level: Level) -> dict[str, Estimate]:
    """All items ask for as many pairs, so the clustered error is that of the items' means."""
    return {
        "accuracy": share(mean(level.hits.mean(1))),
        "graded": mean(level.graded),
        "answer_nll": mean(level.loss.mean(1)),
    }


def by_gap(levels: list[Level]) -> list[dict[str, Any]]:
    """Return the accuracy of queries start .. end - 1 tokens behind their pair; bins double.

    `n` counts queries; the standard error is over items.
    """
    last = max(int(level.gap.max()) for level in levels)
    rows = []
    for k in range(last.bit_length()):
        start, end = 2**k, 2 ** (k + 1)
        right, asked = [], []
        for level in levels:
            inside = (level.gap >= start) & (level.gap < end)
            right.append((level.hits * inside).sum(1))
            asked.append(inside.sum(1))
        counts = np.concatenate(asked)
        reached = counts > 0
        if not reached.any():
            continue
        found = share(ratio(np.concatenate(right)[reached], counts[reached]))
        row = {"start": start, "end": end, "accuracy": known(found.value)}
        rows.append(row | {"stderr": known(found.stderr), "n": int(counts.sum())})
    return rows


def _cache_bytes(recipe: Recipe, length: int) -> dict[str, dict[str, Any]]:
    """Return what one sequence of the task's length holds, by the exact cost of the declaration."""
    found = cost(recipe.spec, length)
    return {
        "state_bytes": exact(found.state_bytes, 1, "bytes"),
        "kv_bytes": exact(found.kv_bytes, 1, "bytes"),
    }


def _source(task: MQARTask, recipe: Recipe) -> MQARSource:
    for source in recipe.data.sources:
        if isinstance(source, MQARSource) and source.name == task.source:
            return source
    raise InputError(f"task '{task.name}': '{task.source}' is no mqar source of this recipe")


def _items(task: MQARTask, source: MQARSource, n_pairs: int, length: int) -> MQARItems:
    try:
        return eval_mqar_items(source, task.n_items, n_pairs=n_pairs, length=length)
    except InputError as error:
        raise InputError(f"task '{task.name}': {error}") from None


def _symbol(token: int, source: MQARSource) -> str:
    symbol, first_value = token - source.token_offset, source.vocab_size // 2
    if symbol == 0:
        return "_"
    return f"k{symbol}" if symbol < first_value else f"v{symbol - first_value}"
