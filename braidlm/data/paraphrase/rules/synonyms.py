"""Synonyms: other words of WordNet, of the same part of speech and in the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from braidlm.data.paraphrase.rules.lexicon import Lexicon
from braidlm.data.paraphrase.rules.sentence import Token

PARTS = {"NOUN": "n", "VERB": "v", "ADJ": "a", "ADV": "r"}
FORMS = frozenset({"NN", "NNS", "VB", "VBD", "VBG", "VBN", "VBP", "VBZ", "JJ", "RB"})
Inflect = Callable[[str, str], str | None]
Frequency = Callable[[str], float]
"""Of a word, on the Zipf scale: the logarithm to base 10 of how often it stands in 10^9 words."""
_FUNCTION_WORD = 5.9
"""On the Zipf scale: words as frequent as "but" and "too" do other work first of all."""
_SILENT = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)
_CONSONANT = re.compile(r"(?:uni(?!n|m)|use|usu|util|eu|one|once|ubi)", re.IGNORECASE)


class Synonyms:
    """Chooses synonyms for the words of a sentence."""

    def __init__(
        self,
        lexicon: Lexicon,
        inflect: Inflect,
        frequency: Frequency,
        *,
        parts: Sequence[str],
        max_other_senses: int,
        min_frequency: float,
    ) -> None:
        self._lexicon, self._inflect, self._frequency = lexicon, inflect, frequency
        self._parts, self._max_other_senses = frozenset(parts), max_other_senses
        self._min_frequency = min_frequency

    def choose(
        self, tokens: Sequence[Token], rate: float, random: np.random.Generator
    ) -> dict[int, str]:
        """Return {token.i: the word instead}; an article before it is put right too."""
        changed: dict[int, str] = {}
        for at, token in enumerate(tokens):
            if (options := self._options(tokens, at)) and random.random() < rate:
                word = options[int(random.integers(len(options)))]
                changed[token.i] = word.capitalize() if token.text[0].isupper() else word
        return changed | dict(_articles(tokens, changed))

    def _options(self, tokens: Sequence[Token], at: int) -> list[str]:
        token = tokens[at]
        part = PARTS.get(token.pos_, "")
        if part not in self._parts or token.tag_ not in FORMS or not self._is_free(tokens, at):
            return []
        lemma = token.lemma_.lower()
        # A form that does not come from its lemma is one that we would not write right either.
        if self._inflect(lemma, token.tag_) != token.lower_:
            return []
        least = max(self._min_frequency, self._frequency(lemma) - 1.5)
        found = self._lexicon.synonyms(lemma, part, self._max_other_senses)
        usual = [word for word in found if least <= self._frequency(word) < _FUNCTION_WORD]
        forms = [self._inflect(word, token.tag_) for word in usual]
        return sorted({form for form in forms if form and form != token.lower_})

    def _is_free(self, tokens: Sequence[Token], at: int) -> bool:
        """Tell whether a word stands for itself: in no name, compound, term or fixed phrase."""
        token = tokens[at]
        if not token.is_alpha or len(token) < 4 or token.ent_type_ or not token.text[1:].islower():
            return False
        if token.text[0].isupper() and at > 0:
            return False
        around = [tokens[i] for i in (at - 1, at + 1) if 0 <= i < len(tokens)]
        if any(t.text in "-–'’\"" or t.pos_ == "PROPN" for t in around if t.text != "."):
            return False
        before, after = (
            tokens[at - 1].lower_ if at else "",
            tokens[at + 1].lemma_.lower() if at + 1 < len(tokens) else "",
        )
        lemma = token.lemma_.lower()
        if self._lexicon.has_compound(before, lemma) or self._lexicon.has_compound(lemma, after):
            return False
        return token.pos_ != "VERB" or _is_transitive(token)


def _is_transitive(verb: Token) -> bool:
    """Tell whether a verb has an object and nothing else that its synonym might not take."""
    deps = {c.dep_ for c in verb.children}
    takes = deps & {"prt", "xcomp", "ccomp", "dative", "oprd", "acomp", "attr", "prep"}
    return bool(deps & {"dobj", "nsubjpass"}) and not takes


def _articles(tokens: Sequence[Token], changed: dict[int, str]) -> Iterator[tuple[int, str]]:
    for at, token in enumerate(tokens[:-1]):
        after = tokens[at + 1]
        if token.lower_ in ("a", "an") and after.i in changed:
            article = "an" if opens_with_a_vowel(changed[after.i]) else "a"
            yield token.i, article.capitalize() if token.text[0].isupper() else article


def opens_with_a_vowel(word: str) -> bool:
    """Tell whether "an" stands before a word: "an hour", "a union"."""
    if _SILENT.match(word):
        return True
    return word[:1].lower() in "aeiou" and not _CONSONANT.match(word)
