"""Where the records of a data set lie: on the Hub, in a file, or in a folder of several sets."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection
from pathlib import Path

from braidlm.arch.sources import HUB, Corpus
from braidlm.arch.tasks.base import DataTask
from braidlm.data.corpora import Record, file_names, read_records
from braidlm.errors import InputError


def corpus_of(task: DataTask) -> Corpus:
    """Return where the records of a task lie."""
    if task.path.startswith(HUB):
        return Corpus(path=task.path, config=task.config, split=task.split, revision=task.revision)
    return Corpus(path=task.path, files=task.files)


def named_files(
    corpus: Corpus, name: str, others: Collection[str], read: Callable[[Record], object]
) -> Corpus:
    """Return a corpus of those files that hold a data set; what is no folder stays as it is.

    A file belongs to it if its name has the data set's name as a word ("nq_open_oracle.jsonl" for
    nq) and its first record can be read. If no record can be read all files with the word are
    left, so that reading them says why; if no name has a word of any data set all files are.

    Args:
        corpus: where the records lie.
        name: of the data set.
        others: names of other data sets.
        read: reads one record.

    Raises:
        InputError: the folder is without files, or holds other data sets alone.
    """
    if corpus.is_hub or corpus.files or not Path(corpus.path).is_dir():
        return corpus
    files = file_names(corpus)
    named = [f for f in files if name in _words(f)]
    if not named and any(_words(f).intersection(others) for f in files):
        there = ", ".join(files[:12]) + (", ..." if len(files) > 12 else "")
        raise InputError(f"folder {corpus.path} holds no file of '{name}' (files: {there})")
    chosen = [f for f in named if _fits(_only(corpus, [f]), read)] or named
    return _only(corpus, chosen)


def _words(file: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", file.lower()))


def _only(corpus: Corpus, files: list[str]) -> Corpus:
    return corpus.model_copy(update={"files": tuple(glob.escape(f) for f in files)})


def _fits(corpus: Corpus, read: Callable[[Record], object]) -> bool:
    try:
        for record in read_records(corpus, None):
            read(record)
            return True
    except InputError:
        pass
    return False
