"""Fixed phrases of English that say the same: "for instance" for "for example"."""

from __future__ import annotations

import re

from braidlm.data.paraphrase.rules.sentence import capital

_NUMBER = r"(?= (?:[£$€]?\d|two\b|three\b|four\b|five\b|six\b|ten\b|half\b))"
_PLACE = r"(?= (?:in|on|at|near|along|between|within)\b)"
_DONE = r"(\w{3,}ed|built|held|made|written|found|led|sung|shot|set)"
_BY = r"(?= (?:by|in|at|from|on)\b)"
_NOT_A_PLACE = (
    r"(?!(?:way|manner|extent|degree|year|day|time|period|month|season|age|and|or|one)\b)"
)

_SWAPS = (
    ("for example", "for instance"),
    ("also known as", "also called"),
    ("even though", "although"),
)
"""Either stands for the other."""
_ONE_WAY = (
    (r"due to(?= (?:the|a|an|his|her|its|their|this|these)\b)", "because of"),
    (r"as a result of", "because of"),
    (r"(?<=, )as well as", "and also"),
    (r"in order to", "to"),
    (r"such as(?! to\b)", "like"),
    (rf"(is|are|was|were) located{_PLACE}", r"\1 situated"),
    (rf"(?:approximately|roughly){_NUMBER}", "about"),
    (rf"(?<!no )more than{_NUMBER}(?! half\b)", "over"),
    (r"beg(?:a|u)n to", "started to"),
    (r"begins to", "starts to"),
    (r"prior to", "before"),
    (r"in addition to", "besides"),
    (r"in addition(?=, )", "additionally"),
    (r"a large number of", "many"),
    (r"a number of", "several"),
    (r"a variety of(?= \w+s\b)", "various"),
    (r"the majority of(?= (?:the|his|her|its|their|these|those)\b)", "most of"),
    (r"(?:is|are) able to", "can"),
    (r"took place", "occurred"),
    (r"takes place", "occurs"),
    (r"at the age of(?= \d)", "at age"),
    (r"consists of", "is made up of"),
    (r"consisting of", "made up of"),
    (r"(is|are|was|were) one of the(?! (?:two|three|four|five|few|only)\b)", r"\1 among the"),
    (rf"{_NOT_A_PLACE}([a-z]{{3,}}) in which(?= [a-z])", r"\1 where"),
    (rf"which (?:is|are|was|were) {_DONE}{_BY}", r"\1"),
)
"""(what is looked for between two words, what stands for it)."""
_PATTERNS = [
    (re.compile(rf"(?<![\w'’-])(?:{form})(?![\w'’-])", re.IGNORECASE), other)
    for form, other in _ONE_WAY
]
_EITHER = {a: b for pair in _SWAPS for a, b in (pair, pair[::-1])}
_SWAPPED = re.compile(rf"(?<![\w-])(?:{'|'.join(_EITHER)})(?![\w-])", re.IGNORECASE)


def other_phrases(text: str) -> str:
    """Return a text with each fixed phrase in other words; quotations stay as they are."""
    if any(mark in text for mark in '"“”'):
        return text
    text = _SWAPPED.sub(lambda m: _as(m, _EITHER[m[0].lower()]), text)
    for pattern, other in _PATTERNS:
        text = pattern.sub(lambda m, other=other: _as(m, m.expand(other)), text)
    return text


def _as(match: re.Match[str], words: str) -> str:
    return capital(words) if match[0][0].isupper() else words
