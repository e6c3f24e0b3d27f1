"""Passages out of documents: whole, by paragraph, or by sentences that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from braidlm.arch.sources import TextSource
from braidlm.data.corpora import read_corpus
from braidlm.data.paraphrase.method import Passage

_BLANK_LINES = re.compile(r"\n[ \t\r]*\n\s*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Capt|Lt|Sgt|Rev|Hon|Gov|Sen|Rep|Mt|Ft|vs|"
    r"etc|al|ca|cf|ed|eds|Inc|Ltd|Co|Corp|Bros|approx|e\.g|i\.e|Jan|Feb|Mar|Apr|Jun|"
    r"Jul|Aug|Sept|Sep|Oct|Nov|Dec)|\.[A-Za-z])\.$"
)
_BEFORE_A_NUMBER = re.compile(r"\b(?:[Nn]os?|[Vv]ols?|pp|[Ff]igs?|[Cc]h|[Aa]rt|[Ss]ec)\.$")
_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])")


class TextInput(TextSource):
    """Documents that passages are cut from."""

    unit: Literal["document", "paragraph", "sentence"] = "document"
    """What a passage is: a document, what blank lines part of it, or a sentence."""
    max_words: int = Field(default=0, ge=0)
    """Whole sentences that follow each other are joined to passages of at most so many words
    (a longer sentence stands alone), within a unit; 0: a passage is a whole unit."""


def read_passages(source: TextInput) -> Iterator[Passage]:
    """Yield the passages of a source; what is cut from a document is called "ID/number".

    Raises:
        InputError: as `read_corpus`.
    """
    for document in read_corpus(source):
        pieces = list(_cut(document.text, source))
        if pieces == [document.text] or not pieces:
            yield Passage(document.id, document.text)
            continue
        for number, piece in enumerate(pieces):
            yield Passage(f"{document.id}/{number}", piece)


def _cut(text: str, source: TextInput) -> Iterator[str]:
    if source.unit == "document":
        units = [text]
    else:
        units = [unit.strip() for unit in _BLANK_LINES.split(text)]
    for unit in units:
        if source.unit == "sentence":
            yield from sentences(unit)
        elif source.max_words and len(unit.split()) > source.max_words:
            yield from _joined(sentences(unit), source.max_words)
        elif unit.strip():
            yield unit


def sentences(text: str) -> list[str]:
    """Return the sentences of a text without the white space between them.

    One ends at ".", "!" or "?" before a capital letter or digit, unless the dot belongs to an
    initial or a usual abbreviation: "Dr. A. Smith came. He left." are two.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        stop = end.start() + len(end.group().rstrip())
        dot = end.start() + 1
        is_number = text[end.end()].isdigit() and _BEFORE_A_NUMBER.search(text, start, dot)
        if not is_number and not _ABBREVIATION.search(text, start, dot):
            found.append(text[start:stop].strip())
            start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _joined(parts: list[str], max_words: int) -> Iterator[str]:
    held: list[str] = []
    n_words = 0
    for part in parts:
        n = len(part.split())
        if held and n_words + n > max_words:
            yield " ".join(held)
            held, n_words = [], 0
        held.append(part)
        n_words += n
    if held:
        yield " ".join(held)
