"""Real documents with what is asked of them: one small function per data set.

Each turns a record into a `Passage`. To add a data set: its name in `arch.tasks.recall`, its
function and a row of `DATASETS` here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from braidlm.arch.tasks.recall import RecallSet
from braidlm.data.corpora import Record
from braidlm.data.records import text_of
from braidlm.errors import InputError

SUMMARY = "Summary of information above..."
"""Where a page of SWDE ends and the list begins whose last key is asked for."""


class Passage(NamedTuple):
    """A document and what is asked of it; document + link + question is the whole prompt."""

    id: str
    document: str
    """What is cut, and what is read twice."""
    link: str
    """What stands between the document and the question."""
    question: str
    """All that follows, up to where the answer begins."""
    answers: tuple[str, ...]
    """What is accepted, the first one in the document if any is."""
    cluster: str
    """What was drawn independently; questions about one document share it."""
    opening: str = ""
    """What stands before the document where the question comes first; "": question and line end."""

    def prompt(self, document: str, reads: int = 1, question_first: bool = False) -> str:
        """Return the prompt over a document that may be cut.

        Source: Arora et al. 2024 (arXiv 2407.05483) for the text read twice with a line end
            between.
        """
        before = (self.opening or f"{self.question}\n") if question_first else ""
        again = f"{document}\n" * (reads - 1)
        return f"{before}{again}{document}{self.link}{self.question}"

    def place(self) -> tuple[int, int] | None:
        """Return where the first accepted answer stands first, in whatever case."""
        lower = self.document.lower()
        if len(lower) != len(self.document):  # a character whose small form is longer
            lower = self.document
        for answer in self.answers:
            at = lower.find(answer.lower())
            if at >= 0:
                return at, at + len(answer)
        return None


class DataSet(NamedTuple):
    """How a data set is read and scored."""

    fields: tuple[str, ...]
    """Fields of a record that are read."""
    passage: Callable[[Record], Passage | None]
    """None: a record that asks nothing."""
    scorers: tuple[str, ...]
    """See `braidlm.tasks.scorers`; the primary one first."""


def squad(record: Record) -> Passage:
    """Read {"text": passage, line end, the beginning of a sentence, "value": what completes it}."""
    text, value = _text_and_value(record)
    document, link, question = _at_the_last_line(text, record)
    return Passage(record.id, document, link, question, (value,), _named(document))


def fda(record: Record) -> Passage:
    """Read {"doc_id", "key", "text": report, line end, "Key:", "value": what the report says}."""
    text, value = _text_and_value(record)
    parts = _at_the_last_line(text, record)
    return Passage(record.id, *parts, (value,), _document_id(record), _about(record))


def swde(record: Record) -> Passage:
    """Read a web page, "Summary of information above...", keys with values, and "key:".

    The fields are those of `fda`. The list belongs to the question: it is not cut.
    """
    text, value = _text_and_value(record)
    page, mark, keys = text.partition(SUMMARY)
    document = page.rstrip()
    parts = document, page[len(document) :], mark + keys
    if not mark:
        parts = _at_the_last_line(text, record)
    return Passage(record.id, *parts, (value,), _document_id(record), _about(record))


DATASETS: dict[RecallSet, DataSet] = {
    "squad": DataSet(("text", "value"), squad, ("contains",)),
    "fda": DataSet(("doc_id", "key", "text", "value"), fda, ("contains",)),
    "swde": DataSet(("doc_id", "key", "text", "value"), swde, ("contains",)),
}


def _text_and_value(record: Record) -> tuple[str, str]:
    text, value = (text_of(record.fields, f, record.where).strip() for f in ("text", "value"))
    return text, value


def _document_id(record: Record) -> str:
    return text_of(record.fields, "doc_id", record.where)


def _about(record: Record) -> str:
    """Return how Arora et al. 2024 (arXiv 2407.05483) say first which key will be asked for."""
    key = text_of(record.fields, "key", record.where).strip()
    return f"Information about {key[:1].upper()}{key[1:]}. "


def _at_the_last_line(text: str, record: Record) -> tuple[str, str, str]:
    """Part a prompt at its last line: (what is before, the line end and spaces, the last line)."""
    before, end, question = text.rpartition("\n")
    if not end:
        raise InputError(f"{record.where}: 'text' must be a document, a line end and a question")
    document = before.rstrip()
    return document, text[len(document) : len(text) - len(question)], question


def _named(document: str) -> str:
    return hashlib.sha256(document.encode("utf-8", "replace")).hexdigest()[:16]
