"""What a language model is asked for a paraphrase, and the paraphrase in what it answers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from braidlm.data.paraphrase.method import Draft

PLACE = "{text}"
DEFAULT_PROMPT = (
    "Rewrite the text below in other words and with another sentence structure. Keep its meaning "
    "and its language, and keep every name, number and date exactly as it is. Leave nothing out "
    "and add nothing. Answer with the rewritten text alone.\n\nText: {text}"
)

_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_OPEN_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>")
_FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\Z", re.DOTALL)
_ABOUT_IT = r"(?:paraphras|rewrit|rewrote|rephras|reword|restat|in other words|new version)"
_HEADING = re.compile(rf"\A[^\n:]{{0,80}}{_ABOUT_IT}[^\n:]{{0,80}}:[*_]*(?:\s+|\Z)", re.IGNORECASE)
_LABEL = re.compile(r"\A[*_]*(?:text|answer|output|result|response)[*_]*:[*_]*\s+", re.IGNORECASE)
_YES = re.compile(r"\A(?:sure|certainly|of course|absolutely|okay)[!,.]\s+", re.IGNORECASE)
_NO = re.compile(
    r"\A(?:(?:i'm|i’m|i am) (?:sorry|unable)|sorry,|i (?:cannot|can't|can’t|apologi[sz]e)|"
    r"as an ai\b|i (?:don't|don’t|do not) (?:understand|have))",
    re.IGNORECASE,
)
_POSTSCRIPT = re.compile(
    rf"\n\s*[(*_]*(?:note\b|let me know|i hope|explanation|changes made|"
    rf"(?:this|the)\b[^\n]*{_ABOUT_IT})"
    r"[^\n]*(?:\n.*)?\Z",
    re.IGNORECASE | re.DOTALL,
)
_SEVERAL = re.compile(r"^\s*(?:[*_]*(?:option|version|paraphrase)\s*)?(?:1[.):]).*^[^\n]*\b2[.):]",
                      re.IGNORECASE | re.DOTALL | re.MULTILINE)  # fmt: skip
_SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>|</?s>|\[/?INST\]|<unk>|<pad>|<extra_id_\d+>")
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"), ("«", "»"), ("„", "“"), ("`", "`"))


def check_template(template: str) -> str:
    """Return a template that has the place of the text once; other braces are left alone.

    Raises:
        ValueError: the place is missing or there more than once.
    """
    n = template.count(PLACE)
    if n != 1:
        raise ValueError(f"must hold '{PLACE}' once, where the text goes, not {n} times")
    return template


Template = Annotated[str, AfterValidator(check_template)]
"""A text with one "{text}" in it."""


def fill(template: str, text: str) -> str:
    """Return the template with `text` in its place; braces within the text mean nothing."""
    return template.replace(PLACE, text)


class UnusableError(Exception):
    """An answer that holds no paraphrase: a word, and after ":" what exactly."""


def draft_of(answer: str, source: str, *, cut_at: int | None = None) -> Draft:
    """Return the draft that an answer holds, with the reason where it can not be used.

    Args:
        answer: what a model said.
        source: the text that it was to paraphrase.
        cut_at: the limit of tokens that it ended at; None: it ended by itself.
    """
    try:
        if cut_at is not None:
            raise UnusableError(f"truncated: at {cut_at} tokens")
        return Draft(paraphrase_in(answer, source))
    except UnusableError as error:
        return Draft(answer.strip(), reason=str(error))


def paraphrase_in(answer: str, source: str) -> str:
    """Return the paraphrase that an answer holds, without what is said around it.

    Taken away, unless the source has the same: a model's thoughts, a code fence around all of it,
    "Sure! Here is a paraphrase:", a label such as "Text:", a note behind it, and quotation marks
    around all of it.

    Raises:
        UnusableError: nothing of it can be used; the reason begins with empty_answer, truncated,
            declined, several_answers or bad_characters.
    """
    text = _THOUGHT.sub("", answer).strip()
    if _OPEN_THOUGHT.match(text):
        raise UnusableError("truncated: it was still thinking")
    _check_characters(text)
    if (fenced := _FENCE.match(text)) and not source.startswith("```"):
        text = fenced[1].strip()
    if _NO.match(text) and not _NO.match(source):
        raise UnusableError("declined")
    text = _without_preface(text, source)
    if not _POSTSCRIPT.search(source):
        text = _POSTSCRIPT.sub("", text).strip()
    if _SEVERAL.search(text) and not _SEVERAL.search(source):
        raise UnusableError("several_answers")
    text = _without_quotes(text, source)
    if not text:
        raise UnusableError("empty_answer")
    return text


def _without_preface(text: str, source: str) -> str:
    stripped = text
    for pattern in (_YES, _HEADING, _LABEL):
        if not pattern.match(source):
            stripped = pattern.sub("", stripped, count=1).strip()
    return stripped


def _without_quotes(text: str, source: str) -> str:
    for first, last in _QUOTES:
        inner = text[1:-1]
        is_wrapped = len(text) > 1 and text[0] == first and text[-1] == last
        if is_wrapped and first not in inner and last not in inner:
            is_quoted = source.strip()[:1] == first and source.strip()[-1:] == last
            return text if is_quoted else inner.strip()
    return text


def _check_characters(text: str) -> None:
    found = _SPECIAL.search(text)
    bad = found[0] if found else next((c for c in text if _is_bad(c)), "")
    if bad:
        raise UnusableError(f"bad_characters: {bad!r}")


def _is_bad(character: str) -> bool:
    """Whether it is a control character, half of a character, or the sign of a damaged one."""
    code = ord(character)
    is_control = code < 32 and character not in "\n\r\t"
    return is_control or code == 127 or 0xD800 <= code < 0xE000 or code == 0xFFFD
