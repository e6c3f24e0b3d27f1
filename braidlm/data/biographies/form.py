"""Surface forms: sentences with a place for the person and one for the answer.

{Who} {who} {whom}     the name, or She she her, He he him
{Whose} {whose}        the name with 's, or Her her, His his
{their} {them}         always a pronoun: her her, his him
{answer}               the fact
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PERSON = re.compile(r"\{(who|whom|whose)\}", re.IGNORECASE)
_PRONOUNS = {
    True: {"who": "she", "whom": "her", "whose": "her", "their": "her", "them": "her"},
    False: {"who": "he", "whom": "him", "whose": "his", "their": "his", "them": "him"},
}


class Sentence(NamedTuple):
    """One sentence about one fact."""

    before: str
    """Up to where the answer begins."""
    answer: str
    after: str
    """Behind the answer, its full stop included."""

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.before}{self.answer}{self.after}"


class Form(NamedTuple):
    """One way to tell a fact."""

    before: str
    """What stands before the answer, with places for the person."""
    after: str

    @property
    def is_askable(self) -> bool:
        """Whether the person is named before the answer, so that the rest can be asked for."""
        return _PERSON.search(self.before) is not None

    def told(self, words: dict[str, str], answer: str) -> Sentence:
        """Return the sentence about a person; `words` is from `naming` or `pronouns`."""
        return Sentence(self.before.format_map(words), answer, self.after.format_map(words))


class Forms(NamedTuple):
    """All surface forms of one attribute."""

    told: tuple[Form, ...]
    """(N_FORMS,) what biographies are told in."""
    new: tuple[Form, ...]
    """Sentences that no biography is told in, all askable."""
    asked: tuple[str, ...]
    """Questions that training may ask."""
    newly_asked: tuple[str, ...]
    """Questions that training never asks."""

    @classmethod
    def of(cls, told: str, new: str, asked: str, newly_asked: str) -> Forms:
        """Read them, one a line."""
        sentences, fresh = (tuple(map(_form, _lines(text))) for text in (told, new))
        return cls(sentences, fresh, _lines(asked), _lines(newly_asked))


def naming(name: str, is_female: bool) -> dict[str, str]:
    """Return what stands at each place for a person who is named in full."""
    own = {"who": name, "whom": name, "whose": f"{name}'s"}
    return _with_capitals(_PRONOUNS[is_female] | own)


def pronouns(is_female: bool) -> dict[str, str]:
    """Return what stands at each place for a person who was named before."""
    return _with_capitals(_PRONOUNS[is_female])


def question(text: str, words: dict[str, str]) -> str:
    """Return a question as it stands in a prompt, up to where the answer begins."""
    return f"Question: {text.format_map(words)}\nAnswer:"


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines())


def _form(line: str) -> Form:
    before, _, after = line.partition("{answer}")
    return Form(before, after)


def _with_capitals(words: dict[str, str]) -> dict[str, str]:
    capitals = {key.capitalize(): word[:1].upper() + word[1:] for key, word in words.items()}
    return words | capitals
