"""The text that needles are hidden in: read from a file, cut into words and sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from braidlm.arch.sources import HUB, TextSource
from braidlm.data.compression import broken, open_bytes, why
from braidlm.data.corpora import read_corpus
from braidlm.errors import InputError

MOST_CHARS = 1 << 23
"""Characters that are read of a large corpus."""

_END = re.compile(r"(?<=[.!?]) (?=[\"'(\[]*[A-Z])|(?<=[.!?][\"')\]]) (?=[\"'(\[]*[A-Z])")


class Haystack:
    """Words of a text; beyond its end it begins again.

    Args:
        words: of the text, in their order.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.sentences = lru_cache(maxsize=64)(self._sentences)

    def _sentences(self, n_words: int) -> list[str]:
        """Return the sentences of the first `n_words` words, the last one perhaps cut."""
        repeats = -(-n_words // len(self.words))
        return _END.split(" ".join(islice(self.words * repeats, n_words)))


def read_haystack(path: str, field: str = "text") -> Haystack:
    """Return the words of a text.

    Args:
        path: a JSON file of one object with the text (as RULER's essays have it, also packed), or
            anything that a text source may name: a file, a folder, "python-docs", "hf:NAME".
        field: key or column of the text.

    Raises:
        InputError: a file that cannot be read, or that holds no words.
    """
    words: list[str] = []
    n_chars = 0
    for text in _texts(path, field):
        words += text.split()
        n_chars += len(text)
        if n_chars > MOST_CHARS:
            break
    if not words:
        raise InputError(f"haystack '{path}' holds no words")
    return Haystack(words)


def _texts(path: str, field: str) -> Iterator[str]:
    if path.startswith(HUB) or ".json" not in Path(path).suffixes:
        for document in read_corpus(TextSource(path=path, field=field)):
            yield document.text
        return
    try:
        with open_bytes(Path(path)) as file:
            record = json.loads(file.read())
        text = record[field]
    except (*broken(), ValueError, LookupError, TypeError) as error:
        reason = f"no field '{field}'" if isinstance(error, LookupError) else why(error)
        raise InputError(f"haystack '{path}' cannot be read: {reason:.200}") from None
    if not isinstance(text, str):
        raise InputError(f"haystack '{path}': '{field}' is no text")
    yield text
