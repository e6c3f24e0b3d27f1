"""Order of clauses: "Because Y, X." for "X because Y.", "X in 1990." for "In 1990, X."."""

from __future__ import annotations

from braidlm.data.paraphrase.rules.sentence import (
    Sentence,
    Token,
    capital,
    child,
    lowered,
    points_back,
    subtree,
    text,
)

MARKS = frozenset({"because", "although", "though", "when", "while", "if", "after", "before"}) | {
    *("unless", "once", "whereas", "since", "until"),
}
_SUBJECTS = ("nsubj", "nsubjpass")
_OPENING = ("prep", "advmod", "npadvmod", "advcl")
_SPANS = frozenset({"time", "moment", "day", "year", "month", "week", "hour", "period", "minute"})
_VERBAL = frozenset({"advcl", "relcl", "acl", "ccomp", "xcomp", "conj", "parataxis", "csubj"})


def reorder(sentence: Sentence, changed: dict[int, str]) -> str | None:
    """Return the sentence with a clause, or a phrase of time, at its other end; None: no change."""
    root = sentence.root
    if root is None or not sentence.is_plain or root.pos_ not in ("VERB", "AUX"):
        return None
    subject = child(root, *_SUBJECTS)
    # "It was 1795 before they came" is one statement, not two.
    if subject is None or (subject.lower_ == "it" and root.lemma_ == "be" and child(root, "attr")):
        return None
    for rule in (_clause_to_front, _clause_to_end, _time_to_end, _time_to_front):
        if found := rule(sentence, root, changed):
            return found
    return None


def _clause_to_front(sentence: Sentence, root: Token, changed: dict[int, str]) -> str | None:
    part = _last(sentence, root, "advcl")
    if part is None or not _is_finite_clause(part):
        return None
    # "He left and she wept because ...": what the reason is for would change.
    if child(root, "conj", "cc", "ccomp") or child(part[0].head, "conj"):
        return None
    main = [t for t in sentence.tokens[:-1] if t.i < part[0].i]
    # "the time before a patient needs help", "named after"; what opens the sentence already.
    if main[-1].lemma_ in {*_SPANS, "name"} or main[0].dep_ in _OPENING:
        return None
    # A pronoun before its noun is read as something else, unless both have one.
    if points_back(part) and not points_back(main[:1]):
        return None
    return _fronted(part, main, changed)


def _clause_to_end(sentence: Sentence, root: Token, changed: dict[int, str]) -> str | None:
    part = _first(sentence, root, "advcl")
    if part is None or not _is_finite_clause(part):
        return None
    main = _after_comma(sentence, part)
    # At the end it would hang on the last verb, and a pronoun would come before its noun.
    if main is None or points_back(main) or _has_verb_after(root, main):
        return None
    return _ended(part, main, changed)


def _time_to_end(sentence: Sentence, root: Token, changed: dict[int, str]) -> str | None:
    part = _first(sentence, root, "prep")
    if part is None or not _is_time(part):
        return None
    main = _after_comma(sentence, part)
    if main is None or _has_verb_after(root, main) or _has_time(main):
        return None
    if any(t.text == "," and t.i > root.i for t in main):
        return None  # it would stand inside what the comma parts
    return _ended(part, main, changed)


def _time_to_front(sentence: Sentence, root: Token, changed: dict[int, str]) -> str | None:
    part = _last(sentence, root, "prep")
    if part is None or not _is_time(part):
        return None
    main = [t for t in sentence.tokens[:-1] if t.i < part[0].i]
    if _has_verb_after(root, main) or _has_time(main) or main[-1].text == ",":
        return None
    if main[0].dep_ in _OPENING:
        return None
    return _fronted(part, main, changed)


def _has_verb_after(root: Token, main: list[Token]) -> bool:
    """Tell whether a phrase at the end could be read as another verb's than the main one's."""
    return any(t.dep_ in _VERBAL and t.i > root.i for t in main)


def _has_time(main: list[Token]) -> bool:
    return any(t.ent_type_ in ("DATE", "TIME") for t in main)


def _first(sentence: Sentence, root: Token, dep: str) -> list[Token] | None:
    """Return what hangs on the main verb so and opens the sentence."""
    for token in root.lefts:
        if token.dep_ == dep and (part := subtree(token)) and part[0].i == sentence.tokens[0].i:
            return part
    return None


def _last(sentence: Sentence, root: Token, dep: str) -> list[Token] | None:
    """Return what hangs on the main verb so and ends the sentence before its full stop."""
    for token in root.rights:
        part = subtree(token) if token.dep_ == dep else None
        if part and part[-1].i == sentence.tokens[-1].i - 1 and part[0].i > sentence.tokens[0].i:
            return part
    return None


def _is_finite_clause(part: list[Token]) -> bool:
    """Tell whether it is mark, subject, verb: "after he left", not "after leaving"."""
    verb = _verb(part)
    has_subject = child(verb, *_SUBJECTS) is not None
    is_finite = any(t.tag_ in ("VBD", "VBZ", "VBP", "MD") for t in [verb, *verb.children])
    return part[0].lower_ in MARKS and part[0].head == verb and has_subject and is_finite


def _verb(part: list[Token]) -> Token:
    return next(t for t in part if t.head not in part)


def _is_time(part: list[Token]) -> bool:
    """Tell whether it is a short phrase of a date: "in May 1990", "during the 1970s"."""
    words = [t for t in part[1:] if t.pos_ != "DET"]
    return (
        part[0].lower_ in ("in", "on", "during", "since", "until")
        and len(part) <= 6
        and bool(words)
        and all(t.ent_type_ == "DATE" for t in words)
        and any(t.like_num or t.text[:4].isdigit() for t in words)
    )


def _after_comma(sentence: Sentence, part: list[Token]) -> list[Token] | None:
    """Return what follows a part and its comma, without the full stop."""
    rest = [t for t in sentence.tokens[:-1] if t.i > part[-1].i]
    return rest[1:] if len(rest) > 2 and rest[0].text == "," else None


def _fronted(part: list[Token], main: list[Token], changed: dict[int, str]) -> str | None:
    if main and main[-1].text == ",":
        main = main[:-1]
    rest = lowered(text(main, changed), main[0])
    return None if rest is None else f"{capital(text(part, changed))}, {rest}."


def _ended(part: list[Token], main: list[Token], changed: dict[int, str]) -> str | None:
    last = lowered(text(part, changed), part[0])
    return None if last is None else f"{capital(text(main, changed))} {last}."
