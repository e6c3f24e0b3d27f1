"""What kind of token each one is, by its text and the text before it.

    start          the first word of a document, paragraph or sentence
    number         a piece with a digit
    continuation   a piece that goes on with the word before it
    other          everything else: whole words, spaces, punctuation, special tokens

A sentence starts with a letter that is not lower case, behind ".", "!", "?" or "…" (quotes and
brackets may stand between) and a space, or with any letter behind an empty line. An abbreviation
before a name ("Dr. Who") is taken for the end of a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from braidlm.data.tokenizer import Tokenizer

KINDS = ("start", "number", "continuation", "other")

_ANCHOR = "x"
_ENDED = re.compile(r"[.!?…。！？][\"'”’»)\]]*\s+[\"'“‘«(\[¿¡]*$|\n\s*\n\s*[\"'“‘«(\[]*$")
_BROKEN = "\ufffd"
_TAIL = 64
"""Characters of the text before that are looked at."""


def pieces(ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Return each token's own text, leading space included; "" for special tokens.

    Many tokenizers drop the space in front of a text's first token: each is decoded behind another.
    """
    anchor = tokenizer.encode(_ANCHOR).tolist()
    head = tokenizer.decode(anchor)
    known: dict[int, str] = {}
    for i in {int(i) for i in ids}:
        known[i] = tokenizer.decode([*anchor, i]).removeprefix(head)
    return [known[int(i)] for i in ids]


def token_kinds(ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Return the kind of every token of one document from its beginning, see `KINDS`."""
    before, found = "\n\n", []
    for piece in pieces(ids, tokenizer):
        found.append(kind_of(piece, before))
        before = (before + piece)[-_TAIL:]
    return found


def kind_of(piece: str, before: str) -> str:
    """Return the kind of a piece of text that stands behind the text `before`."""
    text = piece.lstrip()
    if any(character.isdigit() for character in text):
        return "number"
    if piece and piece == text and _is_letter(text[0]) and _is_letter(before[-1:]):
        return "continuation"
    space = piece[: len(piece) - len(text)]
    opened = text.lstrip("\"'“‘«([¿¡")
    if opened and _is_letter(opened[0]) and _starts(opened, before + space):
        return "start"
    return "other"


def _is_letter(character: str) -> bool:
    """Whether it belongs to a word; half of a character, as bytes have it, does."""
    return character.isalpha() or character == _BROKEN


def _starts(text: str, before: str) -> bool:
    ended = _ENDED.search(before)
    return ended is not None and ("\n" in ended[0].strip(" ") or not text[0].islower())
