"""MAD's tasks and copying: are the right symbols said, at each kind of place and all of them.

One item of copying and one of in_context_recall (an answer behind its arrow):

    x3 x1 x0 x1 |->x3 x3->x1 x1->x0 x0->x1 x1
    k1 v2 k0 v5 k1->v2 v2 k0->v5 v5

accuracy: share of the places that are asked at which the answer has the largest logit of the whole
vocabulary (an answer that ties with m others counts 1 / (m + 1)). exact: share of items in which
all are right; where the answers are the next tokens that is what greedy decoding would give.
answer_nll: loss of an answer, in nats. Every level (a length, or the symbols of a string) counts
the same; standard errors are over items, which training never draws.

Source: Poli et al. 2024 (arXiv 2403.17844); Jelassi et al. 2024 (arXiv 2402.01032).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.symbols import CopyingSource, MADSource
from braidlm.arch.tasks import CopyingTask, MADTask
from braidlm.data.packing import IGNORE
from braidlm.data.symbol_items import eval_symbols
from braidlm.data.symbols import SymbolItems, draw_item
from braidlm.errors import InputError
from braidlm.generate.mode import device_of, precise_logits
from braidlm.tasks.scoring import at_once, judged
from braidlm.tasks.stats import Estimate, exact, known, mean, mean_of, ratio, share
from braidlm.tasks.work import Column, Row, digest, slices

UNITS = {"accuracy": "share", "exact": "share", "answer_nll": "nats"}


class SymbolWork:
    """The items of a task, for every level; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: a source that is not there, a level that does not fit, or symbols beyond the
            model's vocabulary.
    """

    columns: Mapping[str, Column] = {name: Column(name) for name in UNITS}

    def __init__(self, task: MADTask | CopyingTask, recipe: Recipe) -> None:
        self.task, self._recipe, self.source = task, recipe, source_of(task, recipe)
        self.levels = _levels(task, self.source)
        self.items = [self._drawn(level) for level in self.levels]
        self.digest = digest(part for items in self.items for part in (items.tokens, items.targets))
        self.batches: list[range] = []
        for number, items in enumerate(self.items):
            n_asked = int((items.targets != IGNORE).sum(1).max())
            n = at_once(items.tokens.shape[1], n_asked * recipe.spec.vocab_size)
            self.batches += slices(task.n_items, n, number * task.n_items)

    def _drawn(self, level: int) -> SymbolItems:
        try:
            if isinstance(self.source, MADSource):
                self.source.check_length(level)
            else:
                self.source.check_strings((level,))
            return eval_symbols(self.source, self.task.n_items, level)
        except ValueError as error:
            raise InputError(f"task '{self.task.name}': {error}") from None

    @property
    def identity(self) -> dict[str, Any]:
        """The source whose distribution is tested; how often it is trained on is another matter."""
        return {"source": self.source.model_dump(mode="json", exclude={"weight"})}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Ask for every answer of one batch of items; see `Work.score`."""
        number, first = divmod(items[0], self.task.n_items)
        part = slice(first, first + len(items))
        drawn, level = self.items[number], self.levels[number]
        losses, hits = _answers(model, drawn.tokens[part], drawn.targets[part])
        return [
            {
                "id": f"{level}/{first + i}",
                "group": str(level),
                "accuracy": float(hit.mean()),
                "exact": int((hit == 1).all()),
                "answer_nll": float(loss.mean()),
                "hits": [int(h) if h in (0, 1) else h for h in hit.tolist()],
            }
            for i, (loss, hit) in enumerate(zip(losses, hits, strict=True))
        ]

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        groups = [[row for row in rows if row["group"] == str(n)] for n in self.levels]
        found = [{name: _mean(group, name) for name in UNITS} for group in groups]
        metrics = {
            name: mean_of([level[name] for level in found]).as_metric(unit)
            for name, unit in UNITS.items()
        }
        metrics["chance"] = exact(1 / self._n_answers(), len(rows), "share")
        tables = {
            "by_length": [
                self._line(*level) for level in zip(self.levels, self.items, found, strict=True)
            ],
            "by_class": self._by_class(groups),
        }
        longest = max(items.tokens.shape[1] for items in self.items)
        primary = {key: metrics["accuracy"][key] for key in ("value", "stderr", "n")}
        return {"metric": "accuracy", **primary, "metrics": metrics, "tables": tables} | {
            "seq_len": longest,
            "trained_seq_len": self.source.length,
            "is_extrapolated": longest > self.source.length,
        }

    def _line(self, level: int, items: SymbolItems, found: dict[str, Estimate]) -> dict[str, Any]:
        line: dict[str, Any] = {"length": items.tokens.shape[1]}
        line |= {"n_symbols": level} if isinstance(self.source, CopyingSource) else {}
        for name, estimate in found.items():
            line |= {name: known(estimate.value), f"{name}_stderr": known(estimate.stderr)}
        return line | {"n": found["accuracy"].n}

    def _by_class(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
        """Return the accuracy at each kind of place, over all levels; `n` counts places."""
        table = []
        for number, name in enumerate(self.items[0].class_names):
            right, asked = [], []
            for items, rows in zip(self.items, groups, strict=True):
                for classes, row in zip(items.classes, rows, strict=True):
                    is_mine = classes[classes >= 0] == number
                    right.append(float(np.array(row["hits"])[is_mine].sum()))
                    asked.append(int(is_mine.sum()))
            if not sum(asked):
                continue
            found = share(ratio(right, asked))
            line = {"class": name, "accuracy": known(found.value), "stderr": known(found.stderr)}
            table.append(line | {"n": sum(asked)})
        return table

    def _n_answers(self) -> int:
        """Return how many symbols may be an answer."""
        ends = {a.letter: a.end - a.first for a in self.items[0].alphabets}
        return ends.get("v", ends.get("x", 1))

    def example(self) -> str:
        """Draw the first item."""
        items, level = self.items[0], self.levels[0]
        what = "symbols" if isinstance(self.source, CopyingSource) else "tokens"
        drawn = draw_item(items.tokens[0], items.targets[0], items.alphabets)
        return f"{level} {what}: {drawn}"


def source_of(task: MADTask | CopyingTask, recipe: Recipe) -> MADSource | CopyingSource:
    """Return the distribution that a task tests.

    Raises:
        InputError: no such source, or symbols beyond the model's vocabulary.
    """
    kind = MADSource if isinstance(task, MADTask) else CopyingSource
    known = [source for source in recipe.data.sources if isinstance(source, kind)]
    if isinstance(task, MADTask):
        known = [source for source in known if getattr(source, "task", None) == task.task]
    if task.source:
        known = [source for source in known if source.name == task.source]
        if not known:
            what = f"{task.kind} source"
            what += f" of {task.task}" if isinstance(task, MADTask) else ""
            raise InputError(f"task '{task.name}': '{task.source}' is no {what} in this recipe")
    published = MADSource(task=task.task) if isinstance(task, MADTask) else CopyingSource()
    source = known[0] if known else published
    if (end := source.token_offset + source.vocab_size) > recipe.spec.vocab_size:
        raise InputError(
            f"task '{task.name}': its {end} symbols must not exceed the model's "
            f"vocab_size = {recipe.spec.vocab_size}"
        )
    return source


def _levels(task: MADTask | CopyingTask, source: MADSource | CopyingSource) -> tuple[int, ...]:
    if isinstance(task, MADTask):
        return task.lengths or (source.length,)
    assert isinstance(source, CopyingSource)
    return task.n_symbols or source.n_symbols


def _answers(
    model: nn.Module, tokens: np.ndarray, targets: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return for each item (n, L) the losses in nats and the hits at its places that are asked."""
    device, is_asked = device_of(model), targets != IGNORE
    hidden = model(torch.from_numpy(tokens).to(device), return_state=False).hidden
    logits = precise_logits(model, hidden[torch.from_numpy(is_asked).to(device)])
    wanted = torch.from_numpy(targets[is_asked]).to(device)
    ends = np.cumsum(is_asked.sum(1))[:-1]
    losses, hits = (np.split(part, ends) for part in judged(logits, wanted))
    return losses, hits


def _mean(rows: Sequence[Row], name: str) -> Estimate:
    found = mean([row[name] for row in rows])
    return share(found) if UNITS[name] == "share" else found
