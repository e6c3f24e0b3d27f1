"""Compare the training text of a recipe with what its tasks ask, and with itself."""

import itertools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from braidlm.arch import Recipe
from braidlm.arch.experiment import DataConfig, FileSource
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.arch.sources import TextSource
from braidlm.arch.tasks import (
    AnyTask,
    BiographiesTask,
    LMTask,
    LongTextTask,
    MultiDocTask,
    PhonebookKeysTask,
    PhonebookTask,
    RecallTask,
)
from braidlm.data.biographies.items import items_of
from braidlm.data.corpora import PYTHON_DOCS, Document, corpus_files, read_corpus
from braidlm.data.halves import is_held_out
from braidlm.data.near_duplicates import NearDuplicates
from braidlm.data.ngrams import Unit
from braidlm.data.overlap import Comparison, Item, Search, TrainingText, comparison
from braidlm.data.pairs import read_documents
from braidlm.data.passages import named
from braidlm.data.phonebook import Phonebook, eval_lookups
from braidlm.data.phonebook_keys import eval_multi_lookups, kind_of
from braidlm.data.prepare import text_source
from braidlm.data.recall import passages
from braidlm.data.records import read_jsonl
from braidlm.data.seeding import some_by_name
from braidlm.data.surround import questions_of
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError


def check_overlap(
    recipe: Recipe,
    against: Sequence[Path] = (),
    *,
    unit: Unit = "words",
    n: int | None = None,
    duplicates: bool = True,
) -> dict[str, Any]:
    """Look for n-grams of every task in the text that a recipe trains on.

    Args:
        recipe: gives the text sources, their held-out share, and the tasks.
        against: more files of items: .jsonl (each line's texts, at any depth), or .txt (what
            blank lines part), packed or not.
        unit: of the n-grams.
        n: their length; None: see `braidlm.data.overlap`.
        duplicates: look for documents that stand in the training text twice, too.

    Returns:
        {"tasks": [what `braidlm.data.overlap` says of each], "skipped": [{"name", "why"}],
        "duplicates": what `NearDuplicates.summary` says, or None, "n_documents", "n_bytes" (of
        the training text), "search_sec", "peak_bytes" (of the process)}.

    Raises:
        InputError: no text to train on, files that cannot be read, or nothing to compare.
    """
    compared, skipped = _comparisons(recipe, against, unit, n, duplicates)
    near = NearDuplicates() if duplicates else None
    search = Search(compared, near)
    began = time.perf_counter()
    tasks = search.run(_training_text(recipe.data))
    if not search.ids:
        raise InputError("data.sources: no source has text to train on")
    return {
        "tasks": tasks,
        "skipped": skipped,
        "duplicates": None if near is None else near.summary(),
        "n_documents": len(search.ids),
        "n_bytes": search.n_bytes,
        "search_sec": time.perf_counter() - began,
        "peak_bytes": _peak_bytes(),
    }


def as_result(found: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Return the payload of a result file about one task, see `braidlm.runs.Run.write_result`."""
    n = task["n_items"] - task["n_too_short"]
    share = {"value": task["share"], "stderr": task["stderr"], "n": n, "unit": "share"}
    grams = {"value": task["n_grams_share"], "stderr": None, "n": n, "unit": "share"}
    return {
        "metric": "overlapping",
        "metrics": {"overlapping": share, "ngrams": grams},
        "tables": {"worst": task["worst"]},
        "compared": {k: task[k] for k in ("unit", "n", "n_items", "n_too_short", "n_found")},
        "duplicates": found["duplicates"],
        "training": {"n_documents": found["n_documents"], "n_bytes": found["n_bytes"]},
        "step": None,
        "checkpoint": None,
        "device": "cpu",
        "dtype": None,
        "ops": {},
        "wall_sec": found["search_sec"],
    }


def _comparisons(
    recipe: Recipe, against: Sequence[Path], unit: Unit, n: int | None, duplicates: bool
) -> tuple[list[Comparison], list[dict[str, str]]]:
    compared, skipped = [], []
    for task in recipe.tasks:
        name = f"{task.kind}-{task.name}"
        items = list(_items_of(task, recipe.data))
        if items:
            compared.append(comparison(name, items, unit, n))
        else:
            skipped.append({"name": name, "why": "it asks symbols, not text"})
    for source in recipe.data.sources:
        if isinstance(source, ParaphraseSource) and (items := list(_held_out(source, recipe.data))):
            compared.append(comparison(f"held-out-{source.name}", items, unit, n))
    names = [c.name for c in compared]
    for path in against:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", path.name.partition(".")[0])
        if name in names:
            raise InputError(f"--against {path}: another task or file is called '{name}'")
        names.append(name)
        compared.append(comparison(name, _file_items(path), unit, n))
    if not compared and not duplicates:
        raise InputError("nothing to compare: no task asks text, and no file is given (--against)")
    return compared, skipped


def _items_of(task: AnyTask, data: DataConfig) -> Iterator[Item]:
    if isinstance(task, LMTask):
        for document in read_documents(text_source(data, task.source)):
            if document.text.strip() and is_held_out(document.key, data.held_out):
                yield Item(document.id, (document.text,))
    elif isinstance(task, LongTextTask) and task.path:
        yield from (Item(d.id, (d.text,)) for d in read_corpus(task.corpus))
    elif isinstance(task, RecallTask):
        for passage in passages(task):
            asked = f"{passage.question} {passage.answers[0]}"
            yield Item(passage.id, (passage.document, asked))
    elif isinstance(task, MultiDocTask):
        for asked in some_by_name(questions_of(task), task.n_items):
            texts = (asked.documents[i].text for i in asked.gold)
            yield Item(asked.id, (*texts, f"{asked.question} {asked.answers[0]}"))
    elif isinstance(task, PhonebookKeysTask):
        tokenizer = load_tokenizer(data.tokenizer)
        for length, depth in itertools.product(task.lengths, task.depths or (None,)):
            kind = kind_of(task, depth)
            for i, item in enumerate(eval_multi_lookups(task.n_items, length, kind, tokenizer)):
                yield Item(f"{length}/{depth}/{i}", (item.prompt,))
    elif isinstance(task, BiographiesTask):
        for i, item in enumerate(items_of(task, data)):
            yield Item(str(i), (item.context, f"{item.asked.prompt} {item.asked.answer}"))
    elif isinstance(task, PhonebookTask):
        tokenizer = load_tokenizer(data.tokenizer)
        book = Phonebook(tokenizer, task.n_digits, task.n_examples)
        for order in task.orders:
            for length in task.lengths:
                items = eval_lookups(book, task.n_items, length=length, order=order)
                for i, item in enumerate(items):
                    yield Item(f"{order}/{length}/{i}", (tokenizer.decode(item.prompt),))


def _held_out(source: ParaphraseSource, data: DataConfig) -> Iterator[Item]:
    """Yield the held-out half of a folder of paraphrases, each with its text."""
    for document in read_documents(source):
        if is_held_out(document.key, data.held_out):
            yield Item(document.id, (document.prompt or "", document.text))


def _file_items(path: Path) -> Iterator[Item]:
    source = TextSource.of({"path": str(path), "documents": "blank-line"}, "--against")
    if source.is_hub or source.path == PYTHON_DOCS or path.is_dir():
        raise InputError(f"--against {path}: must be a .jsonl or .txt file")
    [file] = corpus_files(source)
    if ".jsonl" not in file.suffixes:
        yield from (Item(d.id, (d.text,)) for d in read_corpus(source))
        return
    for number, record in read_jsonl(file):
        yield Item(f"{file.name}:{number}", tuple(_texts_in(record)))


def _texts_in(value: Any) -> Iterator[str]:
    """Yield every text of a record, at any depth: questions, choices, passages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _training_text(data: DataConfig) -> Iterator[TrainingText]:
    for source in data.sources:
        if not isinstance(source, FileSource):
            continue
        seen: set[str] = set()
        for document in read_documents(source):
            if document.text.strip() and not is_held_out(document.key, data.held_out):
                for text in _texts_of(source, document, seen):
                    yield TrainingText(f"{source.name}:{document.id}", text)


def _texts_of(source: FileSource, document: Document, seen: set[str]) -> Iterator[str]:
    """Yield what is learnt of a document: a pair at once, a paraphrase and its text apart."""
    if not isinstance(source, ParaphraseSource):
        yield "\n".join(filter(None, (document.prompt, document.text)))
        return
    assert document.prompt is not None
    if (name := named(document.prompt)) not in seen:
        seen.add(name)
        yield document.prompt
    yield document.text


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # a system that does not tell
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
