"""Questions that one of many documents answers, and the documents around it.

    Write a high-quality answer for the given question using only the provided search results (some
    of which might be irrelevant).

    Document [1](Title: Lake Eyre) ...
    Document [2](Title: Eiffel Tower) ... It was built in 1887 ...
    Document [3](Title: Mordant) ...

    Question: when was the eiffel tower built
    Answer:

Source: Liu et al. 2023 (arXiv 2307.03172), nelson-liu/lost-in-the-middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from braidlm.arch.tasks.multidoc import MultiDocSet
from braidlm.data.corpora import Record
from braidlm.data.passages import answers_of
from braidlm.data.records import text_of
from braidlm.errors import InputError

_ASK = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant).\n\n"
)
_VERDICTS = ("yes", "no")
"""Answers that any document may hold."""


class Document(NamedTuple):
    """One search result."""

    title: str
    """"": it has none."""
    text: str


class Asked(NamedTuple):
    """A question with the documents that came with it."""

    id: str
    question: str
    answers: tuple[str, ...]
    """What is accepted, the first one in the documents if any is."""
    documents: tuple[Document, ...]
    """In their own order."""
    gold: tuple[int, ...]
    """Numbers of those that answer it."""

    @property
    def cluster(self) -> str:
        """What was drawn independently: the documents that answer it."""
        text = "\n".join(self.documents[i].text for i in self.gold)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def bare(self) -> str:
        """The prompt without documents."""
        return f"Question: {self.question}\nAnswer:"

    def prompt(
        self, documents: Sequence[Document], reads: int = 1, question_first: bool = False
    ) -> str:
        """Return the prompt over documents in this order."""
        before = f"Question: {self.question}\n\n" if question_first else ""
        shown = "\n".join(shown_as(document, i) for i, document in enumerate(documents, 1))
        again = f"{shown}\n" * (reads - 1)
        return f"{_ASK}{before}{again}{shown}\n\n{self.bare}"


def shown_as(document: Document, number: int) -> str:
    """Return the line of one document."""
    title = f"(Title: {document.title})" if document.title else ""
    return f"Document [{number}]{title} {document.text}"


def natural_questions(record: Record) -> Asked | None:
    """Read {"question", "answers"} and "ctxs" with one "isgold", or "passage", or "context".

    None: no accepted answer. Where "orig_question" is there, it is the question.
    """
    fields, where = record.fields, record.where
    field = "orig_question" if "orig_question" in fields else "question"
    question, answers = text_of(fields, field, where).strip(), answers_of(record)
    documents, gold = _contexts(record)
    if not answers:
        return None
    text = " ".join(documents[i].text for i in gold).lower()
    answers.sort(key=lambda answer: answer.lower() not in text)
    return Asked(record.id, question, tuple(answers), tuple(documents), gold)


def _contexts(record: Record) -> tuple[list[Document], tuple[int, ...]]:
    fields, where = record.fields, record.where
    if "ctxs" not in fields:
        text = text_of(fields, "passage" if "passage" in fields else "context", where)
        title = text_of(fields, "title", where) if "title" in fields else ""
        return [Document(title.strip(), _one_line(text))], (0,)
    try:
        documents = [Document(str(c["title"]), _one_line(c["text"])) for c in fields["ctxs"]]
        gold = tuple(i for i, c in enumerate(fields["ctxs"]) if c.get("isgold"))
    except (TypeError, LookupError, AttributeError):
        raise InputError(
            f'{where}: field "ctxs" must be a list of objects with title, text and isgold'
        ) from None
    if len(gold) != 1:
        raise InputError(f'{where}: field "ctxs" must have one isgold, not {len(gold)}')
    return documents, gold


def hotpotqa(record: Record) -> Asked:
    """Read {"question", "answer", "context", "supporting_facts"}, as published or in columns."""
    fields, where = record.fields, record.where
    question, answer = (text_of(fields, f, where).strip() for f in ("question", "answer"))
    for field in ("context", "supporting_facts"):
        if field not in fields:
            text_of(fields, field, where)  # says what is there
    try:
        context, facts = fields["context"], fields["supporting_facts"]
        if isinstance(context, dict):  # columns, as the hub has them
            context = list(zip(context["title"], context["sentences"], strict=True))
        wanted = set(facts["title"] if isinstance(facts, dict) else [fact[0] for fact in facts])
        documents = tuple(Document(title, _one_line("".join(said))) for title, said in context)
    except (TypeError, LookupError, ValueError):
        raise InputError(
            f'{where}: fields "context" and "supporting_facts" must be as HotpotQA has them'
        ) from None
    gold = tuple(i for i, document in enumerate(documents) if document.title in wanted)
    if not gold:
        raise InputError(f'{where}: no title of "supporting_facts" is in "context"')
    return Asked(record.id, question, (answer,), documents, gold)


READERS: dict[MultiDocSet, Callable[[Record], Asked | None]] = {
    "nq": natural_questions,
    "hotpotqa": hotpotqa,
}


def arranged(asked: Asked, others: Sequence[Document], place: int) -> tuple[Document, ...]:
    """Return documents in order: `place` others, those with the answer, the rest of the others."""
    gold = (asked.documents[i] for i in asked.gold)
    return (*others[:place], *gold, *others[place:])


def around(
    asked: Asked, library: Sequence[Document], rng: np.random.Generator
) -> Iterator[Document]:
    """Yield documents without an accepted answer: those of the question, then drawn ones.

    Args:
        asked: the question.
        library: documents of all questions.
        rng: draws their order.
    """
    yield from (d for i, d in enumerate(asked.documents) if i not in asked.gold)
    own = {document.text for document in asked.documents}
    for i in rng.permutation(len(library)):
        document = library[i]
        if document.text not in own and not _holds(document, asked.answers):
            yield document


def _holds(document: Document, answers: Sequence[str]) -> bool:
    said = f"{document.title} {document.text}".lower()
    return any(answer.lower() in said for answer in answers if answer.lower() not in _VERDICTS)


def _one_line(text: str) -> str:
    return " ".join(text.split())
