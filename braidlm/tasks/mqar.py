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

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.cost import cost
from braidlm.arch.symbols import MQARSource
from braidlm.arch.tasks import MQARTask
from braidlm.data.mqar import MQARItems, counterfactual
from braidlm.data.seeding import EVAL, generator
from braidlm.data.symbol_items import alphabets_of, eval_mqar_items
from braidlm.data.symbols import symbol
from braidlm.errors import InputError
from braidlm.generate.mode import device_of, precise_logits
from braidlm.tasks.scoring import at_once, judged
from braidlm.tasks.stats import Estimate, exact, known, mean, mean_of, ratio, share
from braidlm.tasks.work import Column, Row, digest, slices

UNITS = {"accuracy": "share", "graded": "nats", "answer_nll": "nats"}


class Level(NamedTuple):
    """n items of D pairs, and the same with one pair changed."""

    items: MQARItems
    other: MQARItems
    """The counterfactuals."""
    pairs: np.ndarray
    """(n,) the pair that is changed in each."""
    gap: np.ndarray
    """(n, D): tokens from the pair's key to the query."""


class MQARWork:
    """The items of a recall task, for every number of pairs; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: a source that is not there, or pairs that do not fit into the item.
    """

    columns: Mapping[str, Column] = {name: Column(name) for name in UNITS}

    def __init__(self, task: MQARTask, recipe: Recipe) -> None:
        self.task, self._recipe, self.source = task, recipe, _source(task, recipe)
        self.length = task.length or self.source.length
        counts = task.n_pairs or self.source.n_pairs
        self.levels = [level_of(_items(task, self.source, n, self.length)) for n in counts]
        sets = [items for level in self.levels for items in (level.items, level.other)]
        self.digest = digest(part for items in sets for part in (items.tokens, items.targets))
        self.batches: list[range] = []
        for number, n_pairs in enumerate(counts):
            n = at_once(self.length, n_pairs * recipe.spec.vocab_size)
            self.batches += slices(task.n_items, n, number * task.n_items)

    @property
    def identity(self) -> dict[str, Any]:
        """The source whose distribution is tested; how often it is trained on is another matter."""
        return {"source": self.source.model_dump(mode="json", exclude={"weight"})}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Ask for every pair of one batch of items; see `Work.score`."""
        number, first = divmod(items[0], self.task.n_items)
        return measure(model, self.levels[number], range(first, first + len(items)))

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        n = self.task.n_items
        groups = [rows[i * n : (i + 1) * n] for i in range(len(self.levels))]
        n_values = self.source.vocab_size - self.source.first_value
        payload = summary(self.levels, groups, n_values)
        payload["metrics"] |= _cache_bytes(self._recipe, self.length)
        return payload | {
            "seq_len": self.length,
            "trained_seq_len": self.source.length,
            "is_extrapolated": self.length > self.source.length,
        }


def describe_mqar(task: MQARTask, recipe: Recipe) -> str:
    """Draw one item in symbols, its answers behind arrows."""
    source = _source(task, recipe)
    length, n_pairs = task.length or source.length, (task.n_pairs or source.n_pairs)[0]
    items = _items(task, source, n_pairs, length)
    answers = dict(zip(items.query_positions[0].tolist(), items.answers[0].tolist(), strict=True))
    words, alphabets = [], alphabets_of(source)
    for at, token in enumerate(items.tokens[0].tolist()):
        asked = f" -> {symbol(answers[at], alphabets)}," if at in answers else ""
        words.append(symbol(token, alphabets) + asked)
    return f"{n_pairs} pairs in {length} tokens: {' '.join(words)}"


def level_of(items: MQARItems) -> Level:
    """Return the items with a counterfactual of each, for one random pair per item."""
    n, n_pairs = items.answers.shape
    rng = generator(0, EVAL, "counterfactual", n, n_pairs)
    pairs = rng.integers(n_pairs, size=n)
    gap = items.query_positions - items.pair_positions[:, :, -1]
    return Level(items, counterfactual(items, pairs, rng), pairs, gap)


def measure(model: nn.Module, level: Level, which: range) -> list[Row]:
    """Answer every query of some items, and one query per item again under its counterfactual.

    Args:
        model: called as `HybridLM` is; in evaluation mode, see `generate.mode.inference`.
        level: the items.
        which: numbers of those that are asked.
    """
    part, items = slice(which.start, which.stop), level.items
    positions, answers = items.query_positions[part], items.answers[part]
    loss, hits = _answer(model, items.tokens[part], positions, answers)
    pairs, rows = level.pairs[part], np.arange(len(which))
    asked, wanted = (v[rows, pairs, None] for v in (positions, answers))
    misled, _ = _answer(model, level.other.tokens[part], asked, wanted)
    graded = misled[:, 0] - loss[rows, pairs]
    return [
        {
            "id": f"{items.n_pairs}/{number}",
            "group": str(items.n_pairs),
            "accuracy": float(hits[i].mean()),
            "graded": float(graded[i]),
            "answer_nll": float(loss[i].mean()),
            "hits": [int(hit) if hit in (0, 1) else hit for hit in hits[i].tolist()],
        }
        for i, number in enumerate(which)
    ]


def _answer(
    model: nn.Module, tokens: np.ndarray, positions: np.ndarray, answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return loss (n, Q) in nats and share of a right answer (n, Q) at `positions` (n, Q)."""
    given, device = (tokens, positions, answers), device_of(model)
    x, where, wanted = (torch.from_numpy(v).to(device) for v in given)
    hidden = model(x, return_state=False).hidden
    hidden = hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1]))
    return judged(precise_logits(model, hidden), wanted)


def summary(
    levels: Sequence[Level], groups: Sequence[Sequence[Row]], n_values: int
) -> dict[str, Any]:
    """Return metric, metrics and tables.

    Args:
        levels: the items.
        groups: for each level its rows, in the items' order.
        n_values: number of value symbols.
    """
    per_level = [_estimates(rows) for rows in groups]
    overall = {name: mean_of([found[name] for found in per_level]) for name in UNITS}
    metrics = {name: found.as_metric(UNITS[name]) for name, found in overall.items()}
    n = overall["accuracy"].n
    metrics["chance"] = exact(1 / n_values, n, "share")
    by_pairs = [
        {
            "n_pairs": level.items.n_pairs,
            "accuracy": known(found["accuracy"].value),
            "accuracy_stderr": known(found["accuracy"].stderr),
            "graded": known(found["graded"].value),
            "graded_stderr": known(found["graded"].stderr),
            "in_context_chance": 1 / level.items.n_pairs,
            "n": found["graded"].n,
        }
        for level, found in zip(levels, per_level, strict=True)
    ]
    primary = {key: metrics["accuracy"][key] for key in ("value", "stderr", "n")}
    tables = {"by_pairs": by_pairs, "by_gap": by_gap(levels, groups)}
    return {"metric": "accuracy", **primary, "metrics": metrics, "tables": tables}


def _estimates(rows: Sequence[Row]) -> dict[str, Estimate]:
    """All items ask for as many pairs, so the clustered error is that of the items' means."""
    found = {name: mean([row[name] for row in rows]) for name in UNITS}
    return found | {"accuracy": share(found["accuracy"])}


def by_gap(levels: Sequence[Level], groups: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Return the accuracy of queries start .. end - 1 tokens behind their pair; bins double.

    `n` counts queries; the standard error is over items.
    """
    hits = [np.array([row["hits"] for row in rows]) for rows in groups]
    last = max(int(level.gap.max()) for level in levels)
    table = []
    for k in range(last.bit_length()):
        start, end = 2**k, 2 ** (k + 1)
        right, asked = [], []
        for level, found in zip(levels, hits, strict=True):
            inside = (level.gap >= start) & (level.gap < end)
            right.append((found * inside).sum(1))
            asked.append(inside.sum(1))
        counts = np.concatenate(asked)
        reached = counts > 0
        if not reached.any():
            continue
        found = share(ratio(np.concatenate(right)[reached], counts[reached]))
        row = {"start": start, "end": end, "accuracy": known(found.value)}
        table.append(row | {"stderr": known(found.stderr), "n": int(counts.sum())})
    return table


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
