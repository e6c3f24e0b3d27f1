"""Multiple choice: which of several answers a model finds the most probable after a question.

One question of mmlu in the format "letters", see `braidlm.data.choice_templates` for the others:

    ... What is the smallest bone?\\nA. the stapes\\nB. the patella\\nAnswer:   -> [" A"]  " B"

acc: the right answer has the largest log p; acc_norm: the largest log p per UTF-8 byte of what is
scored; a tie with m others counts 1 / (m + 1). nll: loss of the right answer in nats. choice_nll:
-log of its share among the answers alone; with letters about ln(answers) for a model that knows
nothing, and it moves long before acc does. Every template counts the same; standard errors are over
questions, which reach over templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import ChoiceTask
from braidlm.arch.tasks.choice import ChoiceTemplate
from braidlm.data.choice import Choice, choices
from braidlm.data.choice_templates import prompt
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.likelihood import Pair, likelihoods
from braidlm.tasks.scoring import TOKENS_AT_ONCE, check_vocabulary
from braidlm.tasks.spread import KEY, over_templates, told
from braidlm.tasks.stats import Estimate, by_cluster, exact, known, share
from braidlm.tasks.work import Column, Row, digest

UNITS = {"acc": "share", "acc_norm": "share", "choice_nll": "nats", "nll": "nats"}
PRIMARY = {"letters": "acc", "letters_and_text": "acc", "cloze": "acc_norm"}
TOGETHER = 256
"""Questions of a batch at most: what an interruption may lose."""


class ChoiceWork:
    """Questions of a task under each of its templates; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: see `braidlm.data.choice.choices`; a tokenizer that is larger than the model's
            vocabulary.
    """

    def __init__(self, task: ChoiceTask, tokenizer: Tokenizer, recipe: Recipe) -> None:
        check_vocabulary(tokenizer, recipe)
        self.task, self.tokenizer, self._recipe = task, tokenizer, recipe
        self.units = dict(sorted(UNITS.items(), key=lambda unit: unit[0] != PRIMARY[task.format]))
        try:
            asked = choices(task)
            self.items: list[tuple[ChoiceTemplate, Choice]] = [
                (t, choice) for t in task.templates for choice in asked.questions
            ]
            self.texts = [
                prompt(choice, asked.examples.get(choice.subject, ()), t, task.format)
                for t, choice in self.items
            ]
        except InputError as error:
            raise InputError(f"task '{task.name}': {error}") from None
        self.pairs = self._encoded()
        self.lengths = [max(sum(map(len, pair)) for pair in pairs) for pairs in self.pairs]
        right = [np.array([choice.right]) for _, choice in self.items]
        self.digest = digest([*(a for pairs in self.pairs for p in pairs for a in p), *right])
        self.batches = self._batches()

    def _encoded(self) -> list[list[Pair]]:
        """Return the tokens of every question and its answers, bos before them."""
        bos = np.array([self.tokenizer.bos_id])
        heads = self.tokenizer.encode_batch([context for context, _ in self.texts])
        wholes = self.tokenizer.encode_batch([c + a for c, answers in self.texts for a in answers])
        following, found = iter(wholes), []
        for head, (_, answers) in zip(heads, self.texts, strict=True):
            context = np.concatenate([bos, head])
            found.append([Pair(context, next(following)[len(head) :]) for _ in answers])
        return found

    def _batches(self) -> list[list[int]]:
        """Longest questions first, a few forward passes together."""
        found: list[list[int]] = []
        room = 0
        for i in sorted(range(len(self.items)), key=lambda i: (-self.lengths[i], i)):
            if not found or self.lengths[i] > room or len(found[-1]) == TOGETHER:
                found.append([])
                room = 8 * TOKENS_AT_ONCE
            found[-1].append(i)
            room -= self.lengths[i]
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """The same text in other tokens is other contexts."""
        return {"tokenizer": self.tokenizer.fingerprint}

    @property
    def columns(self) -> Mapping[str, Column]:
        """Every metric is the mean over its items."""
        return {name: Column(name) for name in self.units}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Answer one batch; see `Work.score`."""
        found = iter(likelihoods(model, [pair for i in items for pair in self.pairs[i]]))
        return [self._row(i, [next(found).logprob for _ in self.pairs[i]]) for i in items]

    def _row(self, number: int, logprobs: list[float]) -> Row:
        template, choice = self.items[number]
        row: Row = {"id": choice.id}
        if len(self.task.templates) > 1:
            row = {"id": f"{template}/{choice.id}", "group": template, KEY: template}
        row |= {"cluster": choice.id} | ({"subject": choice.subject} if choice.subject else {})
        sizes = [len(answer.encode()) for answer in self.texts[number][1]]
        row |= judged(np.array(logprobs), np.array(sizes), choice.right)
        return row | {"right": choice.right, "logprobs": logprobs, "tokens": self.lengths[number]}

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        metrics = {n: self._mean(rows, n).as_metric(unit) for n, unit in self.units.items()}
        chance = float(np.mean([1 / len(choice.options) for _, choice in self.items]))
        metrics["chance"] = exact(chance, len(rows), "share")
        metric = PRIMARY[self.task.format]
        primary = {key: metrics[metric][key] for key in ("value", "stderr", "n")}
        tables: dict[str, Any] = {}
        for key in (KEY, "subject"):
            if key in rows[0]:
                tables[f"by_{key}"] = self._table(rows, key)
        if "subject" in rows[0]:
            tables["errors"] = self._errors(rows)
        if len(self.task.templates) > 1:
            tables["over_templates"] = over_templates(
                rows, list(self.units), lambda name: self._mean(rows, name)
            )
            metrics["template_spread"] = told(tables["over_templates"], metric, "share")
        longest = max(self.lengths)
        return {"metric": metric, **primary, "metrics": metrics, "tables": tables} | {
            "form": "questions",
            "n_items": len(rows),
            "seq_len": longest,
            "trained_seq_len": self._recipe.data.seq_len,
            "is_extrapolated": longest > self._recipe.data.seq_len,
            "data": {"path": self.task.path, "dataset": self.task.dataset},
        }

    def _table(self, rows: Sequence[Row], key: str) -> list[dict[str, Any]]:
        """One line for each value of a key, in the order of the questions."""
        table = []
        for level in dict.fromkeys(row[key] for row in rows):
            inside = [row for row in rows if row[key] == level]
            line: dict[str, Any] = {key: level}
            for name in self.units:
                found = self._mean(inside, name)
                line |= {name: known(found.value), f"{name}_stderr": known(found.stderr)}
            line["tokens"] = float(np.mean([row["tokens"] for row in inside]))
            n = len({row["cluster"] for row in inside})
            table.append(line | {"n": n, "n_items": len(inside)})
        return table

    def _errors(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The primary metric's error for other questions of these subjects, and other subjects."""
        metric = PRIMARY[self.task.format]
        drawn = self._mean(rows, metric)
        other = self._mean(rows, metric, "subject")
        return [
            {"over": "questions", "stderr": known(drawn.stderr), "n": drawn.n},
            {"over": "subjects", "stderr": known(other.stderr), "n": other.n},
        ]

    def _mean(self, rows: Sequence[Row], name: str, cluster: str = "cluster") -> Estimate:
        columns = [[row.get(key, "") for row in rows] for key in (name, "group", cluster)]
        found = by_cluster(*columns)
        return share(found) if self.units[name] == "share" else found

    def example(self) -> str:
        """Draw the first question, its right answer in brackets behind an arrow."""
        (context, answers), (_, choice) = self.texts[0], self.items[0]
        shown = [f"[{a}]" if i == choice.right else a for i, a in enumerate(answers)]
        return f"{self.lengths[0]} tokens\n{context} -> {' | '.join(shown)}"


def judged(logprobs: np.ndarray, n_bytes: np.ndarray, right: int) -> dict[str, float]:
    """Return the scores of one question.

    Args:
        logprobs: (k,) log p of each answer, nats.
        n_bytes: (k,) UTF-8 bytes of each.
        right: which is right.
    """
    found = {}
    for name, values in (("acc", logprobs), ("acc_norm", logprobs / n_bytes)):
        best = values == values.max()
        found[name] = float(best[right] / best.sum())
    shares = logprobs - logprobs.max()
    found["choice_nll"] = float(np.log(np.exp(shares).sum()) - shares[right])
    return found | {"nll": -float(logprobs[right])}
