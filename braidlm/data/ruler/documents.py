"""Questions about documents, among which others stand: SQuAD and HotpotQA.

    Answer the question based on the given documents. Only give me the answer and do not output any
    other words.

    The following are given documents.

    Document 1:
    ...

    Answer the question based on the given documents. Only give me the answer and do not output any
    other words.

    Question: When was ... founded? Answer: [1863]

The others are first those of the same article (SQuAD), then any of the file. A question counts as
answered by any of its answers.

Source: NVIDIA/RULER `qa.py`; Rajpurkar et al. 2018 (arXiv 1806.03822); Yang et al. 2018 (arXiv
1809.09600).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from braidlm.arch.sources import HUB, Corpus
from braidlm.data.compression import broken, open_bytes, why
from braidlm.data.hub_datasets import read_hub
from braidlm.data.ruler.items import Counter, HiddenItem, Sizes, excess
from braidlm.data.ruler.needles import SHORT
from braidlm.errors import InputError

_ASK = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words."
)
TEXT = (
    _ASK
    + "\n\nThe following are given documents.\n\n{context}\n\n"
    + _ASK
    + "\n\nQuestion: {query}"
)
PREFIX = " Answer:"
N_NEW = 32


@dataclass(frozen=True)
class Question:
    """One question."""

    query: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    """Numbers of the documents that it comes with."""
    more: tuple[int, ...]
    """Numbers of the other documents of its article."""


@dataclass(frozen=True)
class Library:
    """Questions, and all documents of their file."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]

    def sizes(self, length: int) -> Sizes:
        """Return how the text grows, in documents."""
        step = 10 if length >= SHORT else 1
        return Sizes(step, step, len(self.documents))

    def draw(self, rng: np.random.Generator, size: int, number: int) -> HiddenItem:
        """Return question `number` among about `size` documents."""
        question = self.questions[number]
        chosen = list(question.gold)
        free = max(size - len(chosen), 0)
        if free <= len(question.more):
            chosen += rng.choice(question.more or (0,), free, replace=False).tolist()
        else:
            known = {*chosen, *question.more}
            others = [i for i in range(len(self.documents)) if i not in known]
            n_others = min(free - len(question.more), len(others))
            chosen += [*question.more, *rng.choice(others or [0], n_others, replace=False).tolist()]
        shown = [self.documents[chosen[i]] for i in rng.permutation(len(chosen))]
        context = "\n\n".join(f"Document {i + 1}:\n{text}" for i, text in enumerate(shown))
        text = TEXT.replace("{query}", question.query).replace("{context}", context)
        return HiddenItem(text, PREFIX, question.answers, "any", N_NEW)

    def that_fit(self, count: Counter, length: int, n: int) -> list[int]:
        """Return the first n questions whose own documents fit.

        Raises:
            InputError: there are fewer.
        """
        rng, found = np.random.default_rng(0), []
        for number in range(len(self.questions)):
            if excess(self.draw(rng, 0, number), count, length) <= 0:
                found.append(number)
                if len(found) == n:
                    return found
        raise InputError(
            f"length = {length}: only {len(found)} of {len(self.questions)} questions fit with "
            f"their own documents; n_items = {n} must be at most that"
        )


def read_library(path: str, config: str = "") -> Library:
    """Return the questions of a file: SQuAD or HotpotQA, as published or one object a line.

    Args:
        path: .json or .jsonl, also packed, or "hf:" and a name with its `config`. A line has
            `question`, `context` and `answers` (SQuAD: a list, or a list under `text`; one
            without any is passed over), or `question`, `answer` and `context` as
            [title, [sentence, ...]] each (HotpotQA).
        config: of a data set of the Hugging Face Hub.

    Raises:
        InputError: a file that cannot be read, or holds no such questions.
    """
    try:
        rows = list(_hub_rows(path, config) if path.startswith(HUB) else _rows(path))
        raw = [_read(row) for row in rows]
    except (*broken(), ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"field {error} is missing" if isinstance(error, LookupError) else why(error)
        raise InputError(
            f"documents '{path}' cannot be read as SQuAD or HotpotQA: {reason:.200}"
        ) from None
    documents = tuple(sorted({text for _, _, texts, _ in raw for text in texts}))
    numbers = {text: i for i, text in enumerate(documents)}
    articles: dict[str, set[int]] = {}
    for _, _, texts, article in raw:
        if article:
            articles.setdefault(article, set()).update(numbers[text] for text in texts)
    questions = []
    for query, answers, texts, article in raw:
        gold = tuple(numbers[text] for text in texts)
        more = tuple(sorted(articles.get(article, set()) - set(gold)))
        if answers:
            questions.append(Question(query, answers, gold, more))
    if not questions:
        raise InputError(f"documents '{path}' holds no question with an answer")
    return Library(tuple(questions), documents)


def _rows(path: str) -> Iterator[dict[str, Any]]:
    with open_bytes(Path(path)) as file:
        text = file.read().decode("utf-8")
    if ".jsonl" in Path(path).suffixes:
        yield from (json.loads(line) for line in text.split("\n") if line.strip())
        return
    whole = json.loads(text)
    if isinstance(whole, list):
        yield from whole
        return
    for article in whole["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield {"title": article["title"], "context": paragraph["context"]} | asked


def _hub_rows(path: str, config: str) -> Iterator[dict[str, Any]]:
    source = Corpus(path=path, config=config, split="validation")
    columns = ("title", "question", "context", "answer", "answers")  # what any of them may have
    yield from (row for _, row in read_hub(source, columns))


def _read(row: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str], str]:
    """Return question, answers, documents, and the article that they are of."""
    context = row["context"]
    if isinstance(context, dict):  # columns, as the hub has them
        context = list(zip(context["title"], context["sentences"], strict=True))
    if isinstance(context, list):
        texts = [f"{title}\n{''.join(sentences)}" for title, sentences in context]
        return row["question"], (row["answer"],), texts, ""
    answers = row["answers"]["text"] if isinstance(row["answers"], dict) else row["answers"]
    said = [a["text"] if isinstance(a, dict) else a for a in answers]
    return row["question"], tuple(dict.fromkeys(said)), [context], row.get("title", "")
