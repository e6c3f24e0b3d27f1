"""RULER: something is hidden in a long text and asked for after it.

niah_single_1, shortened, the answer in brackets:

    A special magic number is hidden within the following text. Make sure to memorize it. ...
    The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.
    One of the special magic numbers for calm-river is: 4817203.
    What is the special magic number for calm-river mentioned in the provided text? The special
    magic number for calm-river mentioned in the provided text is [4817203]

Prompt and answer together have at most `length` tokens. The answer is decoded greedily, to its end:
nothing stops it but eos. string_match_all: share of the right answers that stand in it (needles,
variables, words); string_match_part: whether any does (documents). answer_nll: loss of the right
answer, or of the first one.

Source: Hsieh et al. 2024 (arXiv 2404.06654); NVIDIA/RULER.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from braidlm.arch import Recipe
from braidlm.arch.tasks import RulerTask
from braidlm.data.ruler.draw import Hidden
from braidlm.data.ruler.items import HiddenItem
from braidlm.data.ruler.needles import KINDS
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.questions import Answering, Question, QuestionWork
from braidlm.tasks.stats import known, ratio, share
from braidlm.tasks.work import Row


class RulerWork(QuestionWork):
    """The items of a task, with a table of its needles by length and depth.

    Raises:
        InputError: a text that cannot be read, or a length that is too short.
    """

    def __init__(self, task: RulerTask, tokenizer: Tokenizer, recipe: Recipe) -> None:
        self.task = task
        try:
            hidden = Hidden(task, tokenizer)
            levels = [(n, d) for n in task.lengths for d in task.depths or (None,)]
            drawn = [(n, d, item) for n, d in levels for item in hidden.items(n, d)]
        except InputError as error:
            raise InputError(f"task '{task.name}': {error}") from None
        self.items: dict[str, tuple[int, HiddenItem]] = {}
        questions = []
        for place, (length, depth, item) in enumerate(drawn):
            group = {"length": length} | ({} if depth is None else {"depth": depth})
            name = str(place % task.n_items)
            where = "/".join(map(str, (*group.values(), name)))
            self.items[where] = length, item
            questions.append(Question(name, item.prompt, item.answers, where, group))
        scorer = "string_match_all" if drawn[0][2].needed == "all" else "string_match_part"
        answering = Answering(drawn[0][2].n_new, (), (scorer,))
        about = {"data": {"task": task.task} | _data(task)}
        super().__init__(task.name, questions, answering, tokenizer, recipe, about)

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        found = super().summary(rows)
        needles = self._by_needle(rows)
        return found | {"tables": found["tables"] | ({"by_needle": needles} if needles else {})}

    def _by_needle(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return the share of needles found, by length and by depth in percent (a bin's middle)."""
        cells: dict[tuple[int, float], list[tuple[float, int]]] = {}
        for row in rows:
            length, item = self.items[row["id"]]
            mine: dict[float, list[bool]] = {}
            for answer, depth in zip(item.answers, item.depths, strict=False):
                hit = answer.lower() in row["answer"].lower()
                mine.setdefault(self._depth(row, depth), []).append(hit)
            for depth, hits in mine.items():
                cells.setdefault((length, depth), []).append((sum(hits), len(hits)))
        table = []
        for (length, depth), counts in sorted(cells.items()):
            right, asked = np.array(counts).T
            found = share(ratio(right, asked))
            line = {"length": length, "depth": depth, "recall": known(found.value)}
            table.append(line | {"recall_stderr": known(found.stderr), "n": int(asked.sum())})
        return table

    def _depth(self, row: Row, depth: float) -> float:
        if self.task.depths:
            return float(row["depth"])
        bins = self.task.depth_bins
        return (min(int(depth * bins), bins - 1) + 0.5) * 100 / bins


def _data(task: RulerTask) -> dict[str, str]:
    """Return which texts the items were made of."""
    if task.documents:
        return {"documents": task.documents}
    kind = KINDS.get(task.task)
    has_words = task.task == "cwe" or (kind is not None and kind.keys == "words")
    found = {"words": task.words} if has_words else {}
    is_essay = kind is not None and kind.haystack == "essay"
    return found | ({"haystack": task.haystack} if is_essay else {})
