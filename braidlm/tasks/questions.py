"""Questions in text, answered greedily: what most tasks of memory come down to.

    prompt            "... The tower was built in 1887. Who ... \n The tower was built in"
    answers           ("1887",)
    without_context   "The tower was built in"

The prompt is continued greedily up to a stop or `max_new_tokens`, and what was said is scored by
name, see `braidlm.tasks.scorers`. answer_nll: loss of the first accepted answer after the prompt,
in nats. A question that can be put without its context is put twice: `without_context` is the first
score then, what the weights alone know, and `without_context_nll` that loss.

Every group (a length, a depth) counts the same. Standard errors are over clusters, the documents
that were drawn independently, by the delta method of `stats.by_cluster`; `low` and `high` are 95 %
bounds by drawing whole clusters anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.data.passages import following
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.greedy import answer
from braidlm.tasks.scorers import SCORERS
from braidlm.tasks.scoring import at_once, check_vocabulary
from braidlm.tasks.spread import KEY, over_templates, told
from braidlm.tasks.stats import Estimate, by_cluster, drawn_anew, known, share
from braidlm.tasks.work import Column, Row, digest

SHOWN_CHARACTERS = 400
"""Of a prompt that is drawn for a person, at each of its ends."""


class Question(NamedTuple):
    """One question, in text."""

    id: str
    """Its name; two questions of one group have different ones."""
    prompt: str
    """All that stands before the answer; bos is put before it."""
    answers: tuple[str, ...]
    """What is accepted, at least one; the loss is that of the first."""
    cluster: str
    """What was drawn independently: the document or passage that it is about."""
    group: Mapping[str, int | float | str] = {}
    """What is reported apart, such as {"length": 512}; the same keys in every question."""
    without_context: str | None = None
    """The prompt without the text that it is about; None where nothing is left to ask."""


class Answering(NamedTuple):
    """How questions are answered and scored."""

    max_new_tokens: int
    """Tokens of an answer at most."""
    stop: tuple[str, ...] = ("\n",)
    """What was said ends before the first of these."""
    scorers: tuple[str, ...] = ("contains",)
    """Metrics, the primary one first; see `braidlm.tasks.scorers.SCORERS`."""


class QuestionWork:
    """Questions of one task; see `braidlm.tasks.work.Work`.

    Args:
        name: of the task, for messages.
        questions: at least one.
        answering: how they are answered and scored.
        tokenizer: of the model.
        recipe: gives the model's vocabulary and its trained length.
        about: what a result says of where the questions come from.

    Raises:
        InputError: no question, or a tokenizer that is larger than the model's vocabulary.
    """

    def __init__(
        self,
        name: str,
        questions: Sequence[Question],
        answering: Answering,
        tokenizer: Tokenizer,
        recipe: Recipe,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        check_vocabulary(tokenizer, recipe)
        if not questions:
            raise InputError(f"task '{name}': there is no question to ask")
        self.questions, self.answering, self.tokenizer = questions, answering, tokenizer
        self._recipe, self._about = recipe, dict(about or {})
        self.keys = tuple(questions[0].group)
        self.prompts = self._encoded([q.prompt for q in questions])
        self.answers = tokenizer.encode_batch([continuation(q) for q in questions])
        bare = [q.without_context for q in questions if q.without_context is not None]
        self.bare = self._encoded(bare) if len(bare) == len(questions) else None
        self.digest = digest([*self.prompts, *self.answers, *(self.bare or [])])
        self.batches = self._batches()

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        bos = np.array([self.tokenizer.bos_id])
        return [np.concatenate([bos, ids]) for ids in self.tokenizer.encode_batch(texts)]

    def _batches(self) -> list[list[int]]:
        """Longest prompts first, so that those of one batch are about equally long."""
        n_new = self.answering.max_new_tokens
        left = sorted(range(len(self.prompts)), key=lambda i: (-len(self.prompts[i]), i))
        longest = max(map(len, self.answers))
        batches = []
        while left:
            # Losses hold few logits at a time, so that these are those of one token.
            length = len(self.prompts[left[0]]) + max(n_new, longest)
            n = at_once(length, self._recipe.spec.vocab_size)
            batches.append(left[:n])
            left = left[n:]
        return batches

    @property
    def identity(self) -> dict[str, Any]:
        """The same text in other tokens is another length."""
        return {"tokenizer": self.tokenizer.fingerprint}

    @property
    def units(self) -> dict[str, str]:
        """Metric -> its unit."""
        units = dict.fromkeys(self.answering.scorers, "share") | {"answer_nll": "nats"}
        if self.bare is not None:
            units |= {"without_context": "share", "without_context_nll": "nats"}
        return units

    @property
    def columns(self) -> Mapping[str, Column]:
        """Every metric is the mean over its items."""
        return {name: Column(name) for name in self.units}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Answer one batch; see `Work.score`."""
        losses, said = self._answered(model, [self.prompts[i] for i in items], items)
        rows = [self._row(i, loss, text) for i, loss, text in zip(items, losses, said, strict=True)]
        if self.bare is None:
            return rows
        losses, said = self._answered(model, [self.bare[i] for i in items], items)
        primary = SCORERS[self.answering.scorers[0]]
        for i, row, loss, text in zip(items, rows, losses, said, strict=True):
            row["without_context"] = primary(text, self.questions[i].answers)
            row |= {"without_context_nll": loss, "answer_without_context": text}
        return rows

    def _answered(
        self, model: nn.Module, prompts: list[np.ndarray], items: Sequence[int]
    ) -> tuple[list[float], list[str]]:
        right = [self.answers[i] for i in items]
        n_new = self.answering.max_new_tokens
        losses, given = answer(model, prompts, right, n_new, self._is_done)
        return losses, [self._said(tokens)[0] for tokens in given]

    def _is_done(self, tokens: list[int]) -> bool:
        return self._said(tokens)[1]

    def _said(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """Return the text up to eos or a stop, and whether there was one."""
        eos = self.tokenizer.eos_id
        text = self.tokenizer.decode(takewhile(lambda token: token != eos, tokens))
        ends = [at for stop in self.answering.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends, default=None)], bool(ends) or eos in tokens

    def _row(self, number: int, loss: float, text: str) -> Row:
        question = self.questions[number]
        group = "/".join(str(question.group[key]) for key in self.keys)
        row: Row = {"id": f"{group}/{question.id}" if group else question.id}
        if group:
            row |= {"group": group, **question.group}
        row["cluster"] = question.cluster
        for name in self.answering.scorers:
            row[name] = SCORERS[name](text, question.answers)
        return row | {"answer_nll": loss, "answer": text, "tokens": len(self.prompts[number])}

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        metrics = {
            name: self._mean(rows, name).as_metric(unit) | self._interval(rows, name)
            for name, unit in self.units.items()
        }
        metric = self.answering.scorers[0]
        primary = {key: metrics[metric][key] for key in ("value", "stderr", "n")}
        tables = {f"by_{key}": self._table(rows, (key,)) for key in self.keys}
        if len(self.keys) > 1:
            tables["by_group"] = self._table(rows, self.keys)
        if KEY in self.keys and len({row[KEY] for row in rows}) > 1:
            table = over_templates(rows, list(self.units), lambda name: self._mean(rows, name))
            tables["over_templates"] = table
            metrics["template_spread"] = told(table, metric, self.units[metric])
        longest = max(map(len, self.prompts)) + self.answering.max_new_tokens
        return {"metric": metric, **primary, "metrics": metrics, "tables": tables} | {
            "form": "questions",
            "n_items": len(rows),
            "seq_len": longest,
            "trained_seq_len": self._recipe.data.seq_len,
            "is_extrapolated": longest > self._recipe.data.seq_len,
            **self._about,
        }

    def _table(self, rows: Sequence[Row], keys: tuple[str, ...]) -> list[dict[str, Any]]:
        """One line for each value of the keys, in the order of the questions."""
        levels = dict.fromkeys(tuple(q.group[key] for key in keys) for q in self.questions)
        table = []
        for level in levels:
            inside = [row for row in rows if tuple(row[key] for key in keys) == level]
            line: dict[str, Any] = dict(zip(keys, level, strict=True))
            for name in self.units:
                found = self._mean(inside, name)
                line |= {name: known(found.value), f"{name}_stderr": known(found.stderr)}
            bounds = self._interval(inside, self.answering.scorers[0])
            line |= {f"{self.answering.scorers[0]}_{end}": at for end, at in bounds.items()}
            line["tokens"] = float(np.mean([row["tokens"] for row in inside]))
            n = len({row["cluster"] for row in inside})
            table.append(line | {"n": n, "n_items": len(inside)})
        return table

    def _interval(self, rows: Sequence[Row], name: str) -> dict[str, float | None]:
        columns = [[row.get(key, "") for row in rows] for key in (name, "group", "cluster")]
        return dict(zip(("low", "high"), map(known, drawn_anew(*columns)), strict=True))

    def _mean(self, rows: Sequence[Row], name: str) -> Estimate:
        columns = [[row.get(key, "") for row in rows] for key in (name, "group", "cluster")]
        found = by_cluster(*columns)
        return share(found) if self.units[name] == "share" else found

    def example(self) -> str:
        """Draw the first question, its answer behind an arrow."""
        question, n = self.questions[0], len(self.prompts[0])
        prompt = question.prompt
        if len(prompt) > 2 * SHOWN_CHARACTERS:
            prompt = f"{prompt[:SHOWN_CHARACTERS]} [...] {prompt[-SHOWN_CHARACTERS:]}"
        others = f" (or {' | '.join(question.answers[1:])})" if question.answers[1:] else ""
        return f"{n} tokens\n{prompt} -> {question.answers[0]}{others}"


def continuation(question: Question) -> str:
    """Return the first accepted answer as it follows the prompt, parted by a space at least."""
    return following(question.prompt, question.answers[0])
