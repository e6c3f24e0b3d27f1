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
    """Words of a text, read as they are asked for; beyond its end it begins again.

    Args:
        texts: parts of the text in their order, one word at least in all of them.
    """

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts, self._words, self._n_chars = texts, list[str](), 0
        self.sentences = lru_cache(maxsize=64)(self._sentences)

    def has(self, n_words: int) -> bool:
        """Read on until there are so many words, and return whether there are."""
        while len(self._words) < n_words:
            text = next(self._texts, None) if self._n_chars <= MOST_CHARS else None
            if text is None:
                return False
            self._words += text.split()
            self._n_chars += len(text)
        return True

    def _sentences(self, n_words: int) -> list[str]:
        """Return the sentences of the first `n_words` words, the last one perhaps cut."""
        repeats = 1 if self.has(n_words) else -(-n_words // len(self._words))
        return _END.split(" ".join(islice(self._words * repeats, n_words)))


def read_haystack(path: str, field: str = "text") -> Haystack:
    """Return the words of a text, of which little is read before it is needed.

    Args:
        path: a JSON file of one object with the text (as RULER's essays have it, also packed), or
            anything that a text source may name: a file, a folder, "python-docs", "hf:NAME".
        field: key or column of the text.

    Raises:
        InputError: a file that cannot be read, or that holds no words.
    """
    found = Haystack(_texts(path, field))
    if not found.has(1):
        raise InputError(f"haystack '{path}' holds no words")
    return found


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
