"""Numbers and dates in another form of the same value."""

from __future__ import annotations

import re

from braidlm.data.paraphrase.facts import MONTHS, WORDS

_UNITS = {n: word for word, n in WORDS.items() if 2 <= n <= 20}
_MONTH = "|".join(month.title() for month in MONTHS)
_DAY_FIRST = re.compile(
    rf"(?<![\w,.–/-])([12]?\d|3[01])(?:st|nd|rd|th)? ({_MONTH}),? (\d{{4}})\b(?![\w–/-])(,?)"
)
_MONTH_FIRST = re.compile(
    rf"\b({_MONTH}) ([12]?\d|3[01])(?:st|nd|rd|th)?, (\d{{4}})\b(?![\w–/-])(,?)"
)
_ISO = re.compile(r"(?<![\w.–/-])(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?![\w–/-])")
_PLURAL = r"(?= [a-z]{3,}s\b)"
_DIGITS = re.compile(rf"(?<=[a-z] )(\d{{1,2}}){_PLURAL}")
_WORD = re.compile(rf"(?<=[a-z] )({'|'.join(_UNITS.values())}){_PLURAL}")
_MILLIONS = re.compile(r"(?<![\w.,])(\d{1,3}),(\d{3}),000(?![\w,]|\.\d)")
_PERCENT = re.compile(r"(?<![\w,])(\d+(?:\.\d+)?)(%| percent\b)")
_USUAL = re.compile(r"(?:^|[\s(])[a-z]+ $")
_NEAR = re.compile(r"\d|\b(?:and|or|to|of the|no|number|page|chapter|route|age)\s*$", re.IGNORECASE)


_RANGE = re.compile(rf"(?:{_MONTH}|\b\d{{1,2}}) ?(?:to|and|or|until|through|–|-) ?$")
"""What stands before the second of two dates that share their year."""


def other_dates(text: str) -> str:
    """Return a text with each whole date in the other order: "5 May 1990" and "May 5, 1990".

    An ISO date is written out: "1990-05-05" becomes "May 5, 1990".
    """
    found = _ISO.search(text)
    if found:
        return _ISO.sub(lambda m: f"{MONTHS[int(m[2]) - 1].title()} {int(m[3])}, {m[1]}", text)
    if _MONTH_FIRST.search(text):
        return _MONTH_FIRST.sub(
            lambda m: m[0] if _ends_a_range(m) else f"{m[2]} {m[1]} {m[3]}{m[4]}", text
        )
    return _DAY_FIRST.sub(
        lambda m: m[0] if _ends_a_range(m) else f"{m[2]} {m[1]}, {m[3]}{m[4] or _comma(m)}", text
    )


def other_numbers(text: str) -> str:
    """Return a text with numbers in another form where both are usual.

    "12 ships" and "twelve ships" (2 to 20, before a plural, with no other number near),
    "5,200,000" becomes "5.2 million", "50%" and "50 percent" change places.
    """
    text = _MILLIONS.sub(_in_millions, text)
    text = _PERCENT.sub(lambda m: f"{m[1]} percent" if m[2] == "%" else f"{m[1]}%", text)
    digits = _DIGITS.sub(lambda m: _UNITS.get(int(m[1]), m[1]) if _is_alone(m) else m[1], text)
    if digits != text:
        return digits
    return _WORD.sub(lambda m: str(WORDS[m[1]]) if _is_alone(m) else m[1], text)


def _ends_a_range(match: re.Match[str]) -> bool:
    return _RANGE.search(match.string[: match.start()]) is not None


def _comma(match: re.Match[str]) -> str:
    """A year is closed by a comma inside a sentence: "On May 5, 1990, he came"."""
    return "," if re.match(r" \w", match.string[match.end() :]) else ""


def _in_millions(match: re.Match[str]) -> str:
    thousandths = match[2].rstrip("0")
    return f"{match[1]}.{thousandths} million" if thousandths else f"{match[1]} million"


def _is_alone(match: re.Match[str]) -> bool:
    """Tell whether a usual word stands before: no name, no number, none that counts or names."""
    before = match.string[max(0, match.start() - 20) : match.start()]
    return bool(_USUAL.search(before)) and not _NEAR.search(before)
