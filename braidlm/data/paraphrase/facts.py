"""What a paraphrase must keep to the letter: numbers, dates and names, however they are written.

"5 May 1990", "May 5th, 1990" and "1990-05-05" hold the same; so do "1,200" and "twelve hundred",
"$5 million" and "5,000,000 dollars". Everything is found by rule, in English, without a model.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {word: n for n, word in enumerate(_SMALL)} | {
    word: 10 * n for n, word in enumerate(_TENS, start=2)
}
"""Number words below a hundred."""
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_ORDINALS = {"third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12} | {
    f"{word}th": n for word, n in WORDS.items() if n in {4, 6, 7, 10, 11, *range(13, 20)}
}
_ISO = re.compile(r"\b(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b")
_DIGITS = re.compile(
    r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:[- ]?(hundred|thousand|million|billion)\b)?"
    r"(s\b|'s\b)?",
    re.IGNORECASE,
)
_WORD_RUN = re.compile(
    rf"\b(?:{'|'.join((*WORDS, *SCALES))})(?:(?:-| and | )(?:{'|'.join((*WORDS, *SCALES))}))*\b",
    re.IGNORECASE,
)
_ORDINAL = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b", re.IGNORECASE)
_MONTH = re.compile(
    r"\b(?:(Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)(?=\.?,? \d)"
    rf"|({'|'.join(m.title() for m in MONTHS)})\b)"
)
_NEAR_MONTH = re.compile(r"(?:\d(?:st|nd|rd|th)?|\b(?:in|of|since|until|by|late|early|mid)) $")
_NAME = re.compile(r"(?<![\w.])[^\W\d_a-z][\w]*(?:['’][A-Z]\w+)?")
_OPENING = re.compile(r"(?:^|[.!?:;]['\"”’)\]]*\s+|\n)[\s\"'“‘(\[]*$")
_WORD = re.compile(r"[^\W_]+")
_NO_NAMES = frozenset(
    ("a an and as at but by for from he her his i if in into is it its no not of on or our she so "
    "than that the their then there they this to was we were when with you " + " ".join(DAYS)
    + " " + " ".join(MONTHS)).split()
)  # fmt: skip


class Facts(NamedTuple):
    """What a text holds, each in one way of writing."""

    numbers: frozenset[str]
    """Values in digits, "1990s" for a decade; 1 and 2 in words ("one of", "second") are left out
    where they need not mean a number."""
    dates: frozenset[str]
    """Months and days of the week; days of the month and years are numbers."""
    names: frozenset[str]
    """Capitalised words that do not open a sentence, lower-cased."""
    words: frozenset[str]
    """All words, lower-cased: where a name that is kept is looked for."""


def facts(text: str) -> Facts:
    """Return what a text holds."""
    text = _ISO.sub(lambda m: f"{int(m[3])} {MONTHS[int(m[2]) - 1].title()} {m[1]}", text)
    return Facts(
        frozenset(_numbers(text)),
        frozenset((*_months(text), *_days(text))),
        frozenset(_names(text)),
        frozenset(_WORD.findall(text.lower())),
    )


def number_of(run: str) -> int | None:
    """Return the value of number words such as "two hundred and five"; None: they make no number.

    "nineteen ninety" is 1990, as years are said.
    """
    total = current = 0
    previous = 10**10
    for word in re.split(r"[-\s]+", run.lower()):
        if word == "and":
            continue
        value = WORDS.get(word)
        if value is None:
            scale = SCALES[word]
            if scale == 100:
                current = max(current, 1) * 100
            else:
                total, current = total + max(current, 1) * scale, 0
            previous = scale
            continue
        if previous < 100 and not (previous >= 20 and previous % 10 == 0 and value < 10):
            if not (10 < previous < 100 and value >= 10 and current < 100):
                return None  # "one two": a list, not a number
            current *= 100
        current += value
        previous = value
    return total + current


def _numbers(text: str) -> list[str]:
    found = []
    for match in _DIGITS.finditer(text):
        value = Decimal(match[1].replace(",", "") + (match[2] or ""))
        value *= SCALES.get((match[3] or "").lower(), 1)
        is_decade = match[4] and match[1].endswith("0")  # not "Project 21's"
        found.append(_plain(value) + ("s" if is_decade else ""))
    for match in _WORD_RUN.finditer(text):
        words = match[0]
        value = number_of(words)
        before = text[: match.start()]
        if words.lower() in SCALES and re.search(r"\d[- ]?$", before):
            continue  # "5 million" was read with its digits
        if value is None:
            found += [str(WORDS[w]) for w in re.split(r"[-\s]+", words.lower()) if w in WORDS]
        elif value != 1:
            found.append(str(value))
    found += [str(_ORDINALS[match[0].lower()]) for match in _ORDINAL.finditer(text)]
    return found


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text.lstrip("0") or "0"


def _months(text: str) -> list[str]:
    found = []
    for match in _MONTH.finditer(text):
        name = (match[1] or match[2]).lower()
        is_sure = name not in ("march", "may", "august")
        after, before = text[match.end() :], text[: match.start()]
        is_near = _NEAR_MONTH.search(before) and not re.match(r" [A-Z]", after)  # "by August Kopff"
        if is_sure or re.match(r",? \d", after) or is_near:
            found.append(next(m for m in MONTHS if m.startswith(name[:3])))
    return found


def _days(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word in DAYS]


def _names(text: str) -> list[str]:
    found = []
    for match in _NAME.finditer(text):
        word = match[0]
        is_opening = _OPENING.search(text[max(0, match.start() - 12) : match.start()])
        has_capitals = sum(c.isupper() for c in word) > 1
        if (is_opening and not has_capitals) or word.lower() in _NO_NAMES:
            continue
        found += [part.lower() for part in _WORD.findall(word) if part.lower() != "s"]
    return found
