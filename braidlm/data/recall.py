"""What a recall task asks: its passages, cut to each length, as prompts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from braidlm.arch.sources import Corpus
from braidlm.arch.tasks.recall import RecallSet, RecallTask
from braidlm.data.corpora import read_records
from braidlm.data.cutting import Words, cut_document, words_of
from braidlm.data.halves import is_held_out
from braidlm.data.named_files import corpus_of, named_files
from braidlm.data.passages import DATASETS, Passage
from braidlm.data.recall_templates import longest, wordings
from braidlm.data.seeding import EVAL, generator, some_by_name
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


def read_passages(corpus: Corpus, dataset: RecallSet) -> Iterator[Passage]:
    """Yield what a data set asks, in the order of its files.

    Raises:
        InputError: a file that is missing or damaged, or a record that lacks a field.
    """
    read = DATASETS[dataset]
    corpus = named_files(corpus, dataset.partition("_")[0], DATASETS, read.passage)
    yield from filter(None, map(read.passage, read_records(corpus, read.fields)))


def passages(task: RecallTask) -> list[Passage]:
    """Return what a task asks, at most `n_items`, in the order of its files.

    Raises:
        InputError: as `read_passages`, or no record.
    """
    found = list(read_passages(corpus_of(task), task.dataset))
    if task.in_text:
        found = [p for p in found if p.place() is not None]
    if not found:
        asked = "no question whose answer stands in its text" if task.in_text else "no question"
        raise InputError(f"task '{task.name}': {task.path} holds {asked}")
    if task.held_out:
        found = [p for p in found if is_held_out(p.cluster, task.held_out)]
    if not found:
        raise InputError(
            f"task '{task.name}': no document of {task.path} is held out by held_out = "
            f"{task.held_out}: raise it"
        )
    return some_by_name(found, task.n_items)


def prompts(task: RecallTask, tokenizer: Tokenizer) -> Iterator[tuple[Passage, int | None, str]]:
    """Yield (passage, length or None, prompt) for each length and template of a task.

    The part of a document that is asked about is the same under every template.

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
            widest = longest(passage, task.templates)
            cut[passage.id, length] = _cut(widest, words, task, length, tokenizer)
    for length in task.lengths or (None,):
        for passage in asked:
            document = passage.document if length is None else cut[passage.id, length]
            for worded in wordings(passage, task.templates):
                yield worded, length, worded.prompt(document, task.reads, task.question_first)


def cut_passage(
    passage: Passage,
    words: Words,
    room: int,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    reads: int = 1,
    question_first: bool = False,
) -> str | None:
    """Return the longest part of a passage's document whose prompt has at most `room` tokens.

    The answer is inside. None: even it alone does not fit. Arguments as for `cut_document` and
    `Passage.prompt`.
    """

    def prompt(document: str) -> str:
        return passage.prompt(document, reads, question_first)

    return cut_document(words, passage.place(), room, tokenizer, rng, prompt)


def _cut(
    passage: Passage, words: Words, task: RecallTask, length: int, tokenizer: Tokenizer
) -> str:
    room = length - 1 - task.max_new_tokens  # bos and the answer
    rng = generator(0, EVAL, "cut", passage.id)
    found = cut_passage(passage, words, room, tokenizer, rng, task.reads, task.question_first)
    if found is None:
        first, last = words.around(passage.place())
        part = words.part(first, last + 1)
        least = tokenizer.encode(passage.prompt(part, task.reads, task.question_first))
        raise InputError(
            f"task '{task.name}': length = {length} must be at least {length - room + len(least)} "
            f"tokens for bos, question, answer and max_new_tokens = {task.max_new_tokens} of "
            f"{passage.id}"
        )
    return found
