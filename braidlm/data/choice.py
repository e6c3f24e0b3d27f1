"""Questions with several answers, of files or of the Hub: one small function per form of record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.arch.config import nearest
from braidlm.arch.sources import HUB, Corpus
from braidlm.arch.tasks.choice import PUBLISHED, ChoiceSet, ChoiceTask
from braidlm.data.corpora import Record, read_records
from braidlm.data.records import text_of
from braidlm.data.split_files import absent, places, split_file
from braidlm.errors import InputError


class Choice(NamedTuple):
    """One question."""

    id: str
    question: str
    options: tuple[str, ...]
    """Two or more answers."""
    right: int
    """Which of them is right, from 0."""
    subject: str = ""
    """What it is about, such as "abstract_algebra"; "": nothing is said."""


def numbered(record: Record) -> Choice:
    """Read {"question", "choices": [texts], "answer": number from 0, "subject"}."""
    question, subject = (text_of(record.fields, f, record.where) for f in ("question", "subject"))
    options, right = record.fields.get("choices"), record.fields.get("answer")
    return _checked(Choice(record.id, question.strip(), _texts(options), _number(right), subject),
                    record)  # fmt: skip


def lettered(record: Record) -> Choice:
    """Read {"question" or "question_stem", "choices": {"text", "label"}, "answerKey": label}."""
    field = "question_stem" if "question_stem" in record.fields else "question"
    question = text_of(record.fields, field, record.where)
    choices, key = record.fields.get("choices"), record.fields.get("answerKey")
    choices = choices if isinstance(choices, dict) else {}
    labels = list(_texts(choices.get("label")))
    right = labels.index(key) if key in labels else -1
    return _checked(Choice(record.id, question.strip(), _texts(choices.get("text")), right), record)


READERS: dict[ChoiceSet, Callable[[Record], Choice]] = {
    "mmlu": numbered,
    "arc_easy": lettered,
    "arc_challenge": lettered,
    "openbookqa": lettered,
    "commonsense_qa": lettered,
}


class Asked(NamedTuple):
    """What a task asks."""

    questions: list[Choice]
    examples: dict[str, list[Choice]]
    """Subject -> `n_shots` worked examples."""


def choices(task: ChoiceTask) -> Asked:
    """Return the questions of a task, in the order of their file, and its worked examples.

    Raises:
        InputError: a file that is missing, empty or damaged, a record that lacks a field, an
            unknown subject, or too few examples of one.
    """
    _, _, split, shown = PUBLISHED[task.dataset]
    found = _read(task, split)
    known = list(dict.fromkeys(choice.subject for choice in found))
    for subject in task.subjects:
        if subject not in known:
            raise InputError(f"subjects: there is no '{subject}'{nearest(subject, known)}")
    found = [c for c in found if not task.subjects or c.subject in task.subjects]
    chosen = sorted(found, key=lambda c: hashlib.sha256(c.id.encode()).digest())[: task.n_items]
    names = {choice.id for choice in chosen}
    questions = [choice for choice in found if choice.id in names]
    if not task.n_shots:
        return Asked(questions, {})
    drawn: dict[str, list[Choice]] = {choice.subject: [] for choice in questions}
    for example in _read(task, shown):
        if len(drawn.get(example.subject, ())) < task.n_shots:
            drawn.setdefault(example.subject, []).append(example)
    for subject in dict.fromkeys(choice.subject for choice in questions):
        if len(drawn[subject]) < task.n_shots:
            about = f" of {subject}" if subject else ""
            raise InputError(
                f"n_shots = {task.n_shots}: split '{shown}' of {task.path} has "
                f"{len(drawn[subject])} examples{about}"
            )
    return Asked(questions, drawn)


def _read(task: ChoiceTask, split: str) -> list[Choice]:
    read, where = READERS[task.dataset], _where(task, split)
    found = [read(record) for record in _records(where)]
    if not found:
        raise InputError(f"data {where.path}, split '{split}', holds no question")
    return found


def _records(where: Corpus) -> Iterator[Record]:
    for number, record in enumerate(read_records(where, None), start=1):
        yield record._replace(id=str(number))


def _where(task: ChoiceTask, split: str) -> Corpus:
    if task.path.startswith(HUB):
        return Corpus(path=task.path, config=PUBLISHED[task.dataset][1], split=split)
    there = places(Path(task.path), (task.dataset,))
    for place in there:
        if (file := split_file(place, split)) is not None:
            return Corpus(path=str(file))
    raise InputError(absent(there[0], split))


def _texts(found: Any) -> tuple[str, ...]:
    is_list = isinstance(found, list) and all(isinstance(text, str) for text in found)
    return tuple(found) if is_list else ()


def _number(found: Any) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) else -1


def _checked(choice: Choice, record: Record) -> Choice:
    if len(choice.options) < 2:
        raise InputError(f"{record.where}: 'choices' must hold two texts or more")
    if not 0 <= choice.right < len(choice.options):
        raise InputError(f"{record.where}: the right answer is none of the choices")
    if not all(option.strip() for option in choice.options):
        raise InputError(f"{record.where}: 'choices' holds an empty text")
    return choice
