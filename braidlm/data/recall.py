"""What a recall task asks: its passages, cut to each length, as prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from braidlm.arch.sources import HUB, Corpus
from braidlm.arch.tasks.recall import RecallTask
from braidlm.data.corpora import read_records
from braidlm.data.cutting import Words, cut_document, words_of
from braidlm.data.named_files import named_files
from braidlm.data.passages import DATASETS, Passage
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError


def passages(task: RecallTask) -> list[Passage]:
    """Return what a task asks, at most `n_items`, in the order of its files.

    Raises:
        InputError: a file that is missing or damaged, a record that lacks a field, or no record.
    """
    read = DATASETS[task.dataset]
    found = [p for p in map(read.passage, read_records(_corpus(task), read.fields)) if p]
    if task.in_text:
        found = [p for p in found if p.place() is not None]
    if not found:
        asked = "no question whose answer stands in its text" if task.in_text else "no question"
        raise InputError(f"task '{task.name}': {task.path} holds {asked}")
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
            yield passage, length, passage.prompt(document, task.reads, task.question_first)


def _cut(
    passage: Passage, words: Words, task: RecallTask, length: int, tokenizer: Tokenizer
) -> str:
    def prompt(document: str) -> str:
        return passage.prompt(document, task.reads, task.question_first)

    room = length - 1 - task.max_new_tokens  # bos and the answer
    rng = generator(0, EVAL, "cut", passage.id)
    keep = passage.place()
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


def _corpus(task: RecallTask) -> Corpus:
    if task.path.startswith(HUB):
        return Corpus(path=task.path, split=task.split, revision=task.revision)
    corpus = Corpus(path=task.path, files=task.files)
    if Path(task.path).is_dir():
        return named_files(corpus, task.dataset, DATASETS, DATASETS[task.dataset].passage)
    return corpus
