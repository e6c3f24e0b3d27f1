"""Which files of a folder hold a data set, where the folder holds several."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection

from braidlm.arch.sources import Corpus
from braidlm.data.corpora import Record, file_names, read_records
from braidlm.errors import InputError


def named_files(
    corpus: Corpus, name: str, others: Collection[str], read: Callable[[Record], object]
) -> Corpus:
    """Return a corpus of those files of a folder that hold a data set.

    A file belongs to it if its name has the data set's name as a word ("nq_open_oracle.jsonl" for
    nq) and its first record can be read. If no record can be read all files with the word are
    left, so that reading them says why; if no name has a word of any data set all files are.

    Args:
        corpus: a folder on this machine.
        name: of the data set.
        others: names of other data sets.
        read: reads one record.

    Raises:
        InputError: the folder is missing or without files, or holds other data sets alone.
    """
    if corpus.files:
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
