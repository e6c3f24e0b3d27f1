"""Where the documents that answer a question stand among others, and how many those are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from braidlm.arch.tasks import MultiDocTask
from braidlm.data.corpora import read_records
from braidlm.data.multidoc import READERS, Asked, Document, around, arranged, shown_as
from braidlm.data.named_files import corpus_of, named_files
from braidlm.data.seeding import EVAL, generator, some_by_name
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


class Surrounded(NamedTuple):
    """A question among documents."""

    asked: Asked
    documents: tuple[Document, ...]
    """In the order of the prompt."""
    group: Mapping[str, int | float | str]
    """`length` or `documents`, and `depth`, as far as the task says them."""


def questions_of(task: MultiDocTask) -> list[Asked]:
    """Return all questions of a task's files.

    Raises:
        InputError: a file that is missing or damaged, a record that lacks a field, or no question.
    """
    read = READERS[task.dataset]
    corpus = named_files(corpus_of(task), task.dataset, READERS, read)
    found = [asked for asked in map(read, read_records(corpus, None)) if asked]
    if not found:
        raise InputError(f"task '{task.name}': {task.path} holds no question")
    return found


def surrounded(task: MultiDocTask, tokenizer: Tokenizer) -> Iterator[Surrounded]:
    """Yield the questions of a task for each length or number of documents, and each depth.

    Raises:
        InputError: as `questions_of`, too few documents, or a length that is too short.
    """
    found = questions_of(task)
    place = _Placing(task, tokenizer, found)
    some = [(asked, place.others(asked)) for asked in some_by_name(found, task.n_items)]
    for level in _levels(task):
        for depth in task.depths or (None,):
            group = level | ({} if depth is None else {"depth": depth})
            for asked, others in some:
                yield Surrounded(asked, place.documents(asked, others, level, depth), group)


def _levels(task: MultiDocTask) -> list[dict[str, int | float | str]]:
    if task.lengths:
        return [{"length": length} for length in task.lengths]
    return [{"documents": n} for n in task.n_documents] or [{}]


class _Placing:
    """Puts questions of one task among documents."""

    def __init__(self, task: MultiDocTask, tokenizer: Tokenizer, found: Sequence[Asked]) -> None:
        self.task, self.tokenizer = task, tokenizer
        every = (document for asked in found for document in asked.documents)
        self.library = list({document.text: document for document in every}.values())
        self._sizes: dict[str, int] = {}

    def others(self, asked: Asked) -> list[Document]:
        """Return what may stand around: as much as the longest prompt takes."""
        task, n_gold = self.task, len(asked.gold)
        stream = around(asked, self.library, generator(0, EVAL, "multidoc", asked.id))
        if task.lengths:
            return list(self._up_to(max(task.lengths), stream))
        n = max(task.n_documents, default=len(asked.documents)) - n_gold
        taken = list(islice(stream, max(n, 0)))
        if len(taken) < n:
            raise InputError(
                f"task '{task.name}': n_documents = {list(task.n_documents)}: must be at most "
                f"{len(taken) + n_gold}: only {len(taken)} of the documents in {task.path} do not "
                f"hold the answer to {asked.id}"
            )
        return taken

    def documents(
        self,
        asked: Asked,
        others: Sequence[Document],
        level: Mapping[str, int | float | str],
        depth: float | None,
    ) -> tuple[Document, ...]:
        """Return the documents of one prompt in order."""
        n_gold = len(asked.gold)
        if "length" in level:
            taken = others[: self._n_that_fit(asked, others, int(level["length"]))]
        elif "documents" in level:
            taken = others[: int(level["documents"]) - n_gold]
        elif depth is None:
            return asked.documents
        else:
            taken = others
        if depth is None:
            rng = generator(0, EVAL, "multidoc place", asked.id)
            return arranged(asked, taken, int(rng.integers(len(taken) + 1)))
        return arranged(asked, taken, int(depth / 100 * len(taken)))

    def _n_that_fit(self, asked: Asked, others: Sequence[Document], length: int) -> int:
        task, room = self.task, length - 1 - self.task.max_new_tokens
        size = self._count(asked, others, 0)
        if size > room:
            raise InputError(
                f"task '{task.name}': length = {length} must be at least {length - room + size} "
                f"tokens for bos, question, its documents and max_new_tokens = "
                f"{task.max_new_tokens} of {asked.id}"
            )
        n = sum(1 for _ in self._up_to((room - size) // task.reads, iter(others)))
        while n and self._count(asked, others, n) > room:
            n -= 1
        return n

    def _count(self, asked: Asked, others: Sequence[Document], n: int) -> int:
        documents = arranged(asked, others[:n], 0)
        prompt = asked.prompt(documents, self.task.reads, self.task.question_first)
        return len(self.tokenizer.encode(prompt))

    def _up_to(self, room: int, stream: Iterator[Document]) -> Iterator[Document]:
        """Yield documents while they have at most `room` tokens."""
        for document in stream:
            if document.text not in self._sizes:
                line = f"\n{shown_as(document, 10)}"
                self._sizes[document.text] = len(self.tokenizer.encode(line))
            room -= self._sizes[document.text]
            if room < 0:
                return
            yield document
