"""A parsed sentence, the words that change in it, and how its parts are put together again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Token = Any
"""A token of spaCy, which is not imported here."""
FUNCTION = frozenset({"DET", "ADP", "SCONJ", "CCONJ", "PRON", "AUX"})
THIRD = frozenset(
    (
        *("he", "him", "his", "himself", "she", "her", "hers", "herself", "it", "its"),
        *("itself", "they", "them", "their", "theirs", "themselves", "this", "that", "these"),
        *("those", "such", "one"),
    )
)
"""Words that point at something said before."""


class Sentence(NamedTuple):
    """Tokens of one sentence without the space behind them."""

    tokens: Sequence[Token]

    @property
    def root(self) -> Token | None:
        """The main verb; None where the parser found several or none."""
        roots = [token for token in self.tokens if token.dep_ == "ROOT"]
        return roots[0] if len(roots) == 1 else None

    @property
    def is_plain(self) -> bool:
        """Whether it is one whole statement: no quotes, brackets, dashes, lists or questions."""
        text = "".join(token.text_with_ws for token in self.tokens).strip()
        return (
            text.endswith(".")
            and not any(mark in text for mark in '"“”;:()[]{}<>—–?!\n*|/')
            and " - " not in text
            and text[:1].isupper()
        )


class Edit(NamedTuple):
    """Words that take the place of the tokens from `start` to `stop` - 1 (`token.i`)."""

    start: int
    stop: int
    words: str


def edited(tokens: Sequence[Token], edits: Iterable[Edit], changed: dict[int, str]) -> str:
    """Return the words of a sentence with edits that do not overlap; else as `text`."""
    by_start = {edit.start: edit for edit in edits}
    words, skip = [], -1
    for token in tokens:
        edit = by_start.get(token.i)
        skip = edit.stop if edit else skip
        if edit:
            words.append(edit.words)
        elif token.i >= skip:
            words.append(changed.get(token.i, token.text))
        if token.i >= skip - 1:
            words.append(token.whitespace_)
    return "".join(words).strip()


def child(token: Token, *deps: str) -> Token | None:
    """Return the first child of a token by one of these relations."""
    return next((c for c in token.children if c.dep_ in deps), None)


def subtree(token: Token) -> list[Token] | None:
    """Return all that hangs on a token, in order; None where other words stand in between."""
    tokens = sorted(token.subtree, key=lambda t: t.i)
    is_whole = tokens[-1].i - tokens[0].i + 1 == len(tokens)
    return tokens if is_whole else None


def text(tokens: Iterable[Token], changed: dict[int, str]) -> str:
    """Return the words of tokens, those in `changed` (by `token.i`) as they stand there."""
    return "".join(changed.get(t.i, t.text) + t.whitespace_ for t in tokens).strip()


def points_back(tokens: Iterable[Token]) -> bool:
    """Tell whether a word points at something that is said elsewhere."""
    return any(t.lower_ in THIRD and t.tag_ not in ("IN", "WDT") for t in tokens)


def lowered(words: str, first: Token) -> str | None:
    """Return words for the middle of a sentence that stood at its start; None: cannot tell.

    Only a function word is sure to be no name.
    """
    if first.text == "I" or first.pos_ == "PROPN" or first.ent_type_ in ("NORP", "LANGUAGE"):
        return words
    if first.is_lower or first.is_digit or not first.is_alpha:
        return words
    if first.pos_ in FUNCTION or first.tag_ in ("CD", "PRP$"):
        return words[:1].lower() + words[1:]
    return None


def capital(words: str) -> str:
    """Return words for the start of a sentence."""
    return words[:1].upper() + words[1:]
