"""Real documents with what is asked of them: one small function per data set.

Each turns a record into a `Passage`. To add a data set: its name in `arch.tasks.recall`, its
function and a row of `DATASETS` here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from braidlm.arch.sources import HUB, Corpus
from braidlm.arch.tasks.recall import RecallSet, RecallTask
from braidlm.data.corpora import Record, read_records
from braidlm.data.cutting import Words, cut_document, words_of
from braidlm.data.records import text_of
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


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
    text, value = (text_of(record.fields, f, record.where).strip() for f in ("text", "value"))
    document, link, question = _at_the_last_line(text, record)
    return Passage(record.id, document, link, question, (value,), _named(document))


def fda(record: Record) -> Passage:
    """Read {"doc_id", "text": report, line end, "Key:", "value": what the report says of it}."""
    text, value = (text_of(record.fields, f, record.where).strip() for f in ("text", "value"))
    document, link, question = _at_the_last_line(text, record)
    cluster = text_of(record.fields, "doc_id", record.where)
    return Passage(record.id, document, link, question, (value,), cluster)


DATASETS: dict[RecallSet, DataSet] = {
    "squad": DataSet(("text", "value"), squad, ("contains",)),
    "fda": DataSet(("doc_id", "text", "value"), fda, ("contains",)),
}


def passages(task: RecallTask) -> list[Passage]:
    """Return what a task asks, at most `n_items`, in the order of its files.

    Raises:
        InputError: a file that is missing or damaged, a record that lacks a field, or no record.
    """
    read = DATASETS[task.dataset]
    found = [p for p in map(read.passage, read_records(_corpus(task), read.fields)) if p]
    if not found:
        raise InputError(f"task '{task.name}': {task.path} holds no question")
    chosen = sorted(found, key=lambda p: hashlib.sha256(p.id.encode()).digest())[: task.n_items]
    names = {p.id for p in chosen}
    return [p for p in found if p.id in names]


def prompts(task: RecallTask, tokenizer: Tokenizer) -> Iterator[tuple[Passage, int | None, str]]:
    """Yield (passage, length or None, prompt) for each length of a task.

    Raises:
        InputError: as `passages`, or a length that does not hold question and answer.
    """
    asked = passages(task)
    cut = {}
    words = None
    for passage in asked if task.lengths else ():
        # Questions about one document follow each other.
        if words is None or words.text != passage.document:
            words = words_of(passage.document, tokenizer)
        for length in task.lengths:
            cut[passage.id, length] = _cut(passage, words, task, length, tokenizer)
    for length in task.lengths or (None,):
        for passage in asked:
            document = passage.document if length is None else cut[passage.id, length]
            yield passage, length, prompt_of(passage, document, task.reads, task.question_first)


def prompt_of(passage: Passage, document: str, reads: int = 1, question_first: bool = False) -> str:
    """Return the prompt over a document that may be cut.

    Source: Arora et al. 2024 (arXiv 2407.05483) for the text read twice with a line end between.
    """
    before = f"{passage.question}\n" if question_first else ""
    again = f"{document}\n" * (reads - 1)
    return f"{before}{again}{document}{passage.link}{passage.question}"


def _cut(
    passage: Passage, words: Words, task: RecallTask, length: int, tokenizer: Tokenizer
) -> str:
    def prompt(document: str) -> str:
        return prompt_of(passage, document, task.reads, task.question_first)

    room = length - 1 - task.max_new_tokens  # bos and the answer
    rng = generator(0, EVAL, "cut", passage.id)
    keep = _place(passage)
    found = cut_document(words, keep, room, tokenizer, rng, prompt)
    if found is None:
        first, last = words.around(keep)
        least = tokenizer.encode(prompt(words.part(first, last + 1)))
        raise InputError(
            f"task '{task.name}': length = {length} must be at least {length - room + len(least)} "
            f"tokens for bos, question, answer and max_new_tokens = {task.max_new_tokens} of "
            f"{passage.id}"
        )
    return found


def _place(passage: Passage) -> tuple[int, int] | None:
    """Return where the first accepted answer stands first, in whatever case."""
    lower = passage.document.lower()
    if len(lower) != len(passage.document):  # a character whose small form is longer
        lower = passage.document
    for answer in passage.answers:
        at = lower.find(answer.lower())
        if at >= 0:
            return at, at + len(answer)
    return None


def _at_the_last_line(text: str, record: Record) -> tuple[str, str, str]:
    """Part a prompt at its last line: (what is before, the line end and spaces, the last line)."""
    before, end, question = text.rpartition("\n")
    if not end:
        raise InputError(f"{record.where}: 'text' must be a document, a line end and a question")
    document = before.rstrip()
    return document, text[len(document) : len(text) - len(question)], question


def _named(document: str) -> str:
    return hashlib.sha256(document.encode("utf-8", "replace")).hexdigest()[:16]


def _corpus(task: RecallTask) -> Corpus:
    is_hub = task.path.startswith(HUB)
    return Corpus(path=task.path, split=task.split if is_hub else "train", revision=task.revision)
