"""Look-ups in random phonebooks: is a whole number found again, and if not, what is said instead.

One item of the standard order (the task has two worked examples, here one), the answer in brackets:

    Ann Bell: 5550142
    Tom Shaw: 8201377
    Eva Koch: 0043925

    Tom Shaw: 8201377
    Eva Koch: [0043925]

The answer is decoded greedily and read up to its first character that is no digit. exact: share of
items answered in full. digits: share of digits that are right in their place; a guess has 10 %.
other_entry: another entry's whole number is given. nearer_other: the answer agrees in more digits
with some other entry than with the right one; nearer_other_chance is what random digits give,
which is much, because others are many. answer_nll: loss of the right answer's tokens in nats.
Every order and length counts the same; standard errors are over items.

Source: Jelassi et al. 2024 (arXiv 2402.01032); Waleffe et al. 2024 (arXiv 2406.07887) for two
    examples and for the reversed order, in which the names stand before the book as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.phonebook import Order
from braidlm.arch.tasks import PhonebookTask
from braidlm.data.phonebook import Lookup, Phonebook, eval_lookups
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.greedy import answer
from braidlm.tasks.scoring import at_once, check_vocabulary
from braidlm.tasks.stats import Estimate, exact, known, mean, mean_of, share
from braidlm.tasks.work import Column, Row, digest, slices

UNITS = {"exact": "share", "digits": "share", "other_entry": "share", "nearer_other": "share"}
UNITS |= {"answer_nll": "nats"}
GUESSES = 32
"""Random answers per item from which nearer_other_chance is computed."""


class PhonebookWork:
    """The items of a phonebook task; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: a length that is too short, or a tokenizer larger than the model's vocabulary.
    """

    columns: Mapping[str, Column] = {name: Column(name) for name in UNITS}

    def __init__(self, task: PhonebookTask, tokenizer: Tokenizer, recipe: Recipe) -> None:
        check_vocabulary(tokenizer, recipe)
        self.task, self.tokenizer, self._recipe = task, tokenizer, recipe
        self.levels: list[tuple[Order, int]] = [(o, n) for o in task.orders for n in task.lengths]
        book = Phonebook(tokenizer, task.n_digits, task.n_examples)
        self.items: list[Lookup] = []
        for order, length in self.levels:
            try:
                self.items += eval_lookups(book, task.n_items, length=length, order=order)
            except InputError as error:
                raise InputError(f"task '{task.name}': {error}") from None
        self.digest = digest(part for item in self.items for part in (item.tokens, item.answer))
        self.batches: list[range] = []
        for number, (_, length) in enumerate(self.levels):
            n = at_once(length, (task.n_digits + 2) * recipe.spec.vocab_size)
            self.batches += slices(task.n_items, n, number * task.n_items)

    @property
    def identity(self) -> dict[str, Any]:
        """The tokenizer decides how many entries a length holds."""
        return {"tokenizer": self.tokenizer.fingerprint}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Decode the answers of one batch greedily; see `Work.score`."""
        asked = [self.items[i] for i in items]
        n_new = self.task.n_digits + 2  # the space, and one that ends the number
        prompts, answers = [i.prompt for i in asked], [i.answer for i in asked]
        losses, given = answer(model, prompts, answers, n_new)
        texts = [self.tokenizer.decode(tokens) for tokens in given]
        return [
            self._row(i, item, loss, text)
            for i, item, loss, text in zip(items, asked, losses, texts, strict=True)
        ]

    def _row(self, number: int, item: Lookup, loss: float, text: str) -> Row:
        order, length = self.levels[number // self.task.n_items]
        group, said = f"{order}/{length}", read_number(text)
        right = agreement(said, item.number)
        place = item.asked[-1]
        others = item.numbers[:place] + item.numbers[place + 1 :]
        return {
            "id": f"{group}/{number % self.task.n_items}",
            "group": group,
            "exact": int(said == item.number),
            "digits": sum(right) / len(right),
            "other_entry": int(said in others),
            "nearer_other": int(is_nearer(said, item.number, others)),
            "answer_nll": loss,
            "right": "".join(map(str, right)),
            "place": place,
            "n_entries": len(item.names),
            "answer": text,
        }

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        groups = [
            [row for row in rows if row["group"] == f"{order}/{length}"]
            for order, length in self.levels
        ]
        overall = {name: mean_of([_mean(rows, name) for rows in groups]) for name in UNITS}
        metrics = {name: found.as_metric(UNITS[name]) for name, found in overall.items()}
        n, longest = overall["exact"].n, max(self.task.lengths)
        metrics["digit_chance"] = exact(0.1, n, "share")
        metrics["nearer_other_chance"] = exact(nearer_by_chance(self.items), n, "share")
        tables = {
            "by_length": self._by_length(groups),
            "by_depth": self._by_depth(groups),
            "by_digit": self._by_digit(groups),
        }
        primary = {key: metrics["exact"][key] for key in ("value", "stderr", "n")}
        return {"metric": "exact", **primary, "metrics": metrics, "tables": tables} | {
            "seq_len": longest,
            "trained_seq_len": self._recipe.data.seq_len,
            "is_extrapolated": longest > self._recipe.data.seq_len,
        }

    def _by_length(self, groups: list[list[Row]]) -> list[dict[str, Any]]:
        table = []
        for (order, length), rows in zip(self.levels, groups, strict=True):
            entries = float(np.mean([row["n_entries"] for row in rows]))
            line: dict[str, Any] = {"order": order, "length": length, "n_entries": entries}
            for name in UNITS:
                found = _mean(rows, name)
                line |= {name: known(found.value), f"{name}_stderr": known(found.stderr)}
            table.append(line | {"n": len(rows)})
        return table

    def _by_depth(self, groups: list[list[Row]]) -> list[dict[str, Any]]:
        """The place as a share of the book, from 0 (first entry) to 1, in equal bins."""
        table, bins = [], self.task.depth_bins
        for (order, length), rows in zip(self.levels, groups, strict=True):
            for b in range(bins):
                inside = [
                    row for row in rows if int((row["place"] + 0.5) / row["n_entries"] * bins) == b
                ]
                if not inside:
                    continue
                line: dict[str, Any] = {"order": order, "length": length}
                line |= {"start": b / bins, "end": (b + 1) / bins}
                for name in ("exact", "digits"):
                    found = _mean(inside, name)
                    line |= {name: known(found.value), f"{name}_stderr": known(found.stderr)}
                table.append(line | {"n": len(inside)})
        return table

    def _by_digit(self, groups: list[list[Row]]) -> list[dict[str, Any]]:
        """Share right of each digit's place, over all lengths of one order."""
        table = []
        for order in self.task.orders:
            mine = [rows for (o, _), rows in zip(self.levels, groups, strict=True) if o == order]
            for at in range(self.task.n_digits):
                found = mean_of(
                    [share(mean([int(row["right"][at]) for row in rows])) for rows in mine]
                )
                line = {"order": order, "digit": at + 1, "right": known(found.value)}
                table.append(line | {"stderr": known(found.stderr), "n": found.n})
        return table


def describe_phonebook(task: PhonebookTask, tokenizer: Tokenizer, recipe: Recipe) -> str:
    """Draw the first item, its answer behind an arrow."""
    one = PhonebookWork(task.model_copy(update={"n_items": 1}), tokenizer, recipe)
    item, (order, _) = one.items[0], one.levels[0]
    return (
        f"{order} order, {len(item.names)} entries in {len(item.tokens)} tokens, place "
        f"{item.asked[-1] + 1} is asked for\n{tokenizer.decode(item.prompt)} -> {item.number}"
    )


def read_number(text: str) -> str:
    """Return the digits that an answer begins with, after spaces; "" if there are none."""
    found = re.match(r" *([0-9]+)", text)
    return found[1] if found else ""


def agreement(said: str, number: str) -> list[int]:
    """Return 1 for each digit of `number` that stands in its place in `said`, else 0."""
    return [int(said[i : i + 1] == digit) for i, digit in enumerate(number)]


def is_nearer(said: str, number: str, others: Sequence[str]) -> bool:
    """Whether `said` agrees in more digits with one of `others` than with `number`."""
    own = sum(agreement(said, number))
    return any(sum(agreement(said, other)) > own for other in others)


def nearer_by_chance(items: Sequence[Lookup]) -> float:
    """Return how often random digits agree more with another entry than with the right one."""
    rng, found = generator(0, EVAL, "guess"), []
    for item in items:
        book = np.array([[int(digit) for digit in number] for number in item.numbers])
        said = rng.integers(10, size=(GUESSES, 1, book.shape[1]))
        agrees = (said == book).sum(-1)
        found.append((agrees.max(1) > agrees[:, item.asked[-1]]).mean())
    return float(np.mean(found))


def _mean(rows: Sequence[Row], name: str) -> Estimate:
    found = mean([row[name] for row in rows])
    return share(found) if UNITS[name] == "share" else found
