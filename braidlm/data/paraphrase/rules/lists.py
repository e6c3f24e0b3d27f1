""" "Poets and kings" for "kings and poets": lists whose order says nothing, the other way round."""

from __future__ import annotations

from itertools import pairwise

from braidlm.data.paraphrase.rules.sentence import (
    Edit,
    Sentence,
    Token,
    capital,
    lowered,
    points_back,
    text,
)
from braidlm.data.paraphrase.rules.synonyms import opens_with_a_vowel

NAMES = frozenset({"PERSON", "GPE", "LOC", "ORG", "NORP", "FAC"})
_AMOUNTS = frozenset({"DATE", "TIME", "CARDINAL", "ORDINAL", "QUANTITY", "MONEY", "PERCENT"})
_NOUNS = frozenset({"NOUN", "PROPN", "PRON", "DET", "NUM"})
_ORDERED = frozenset({"respectively", "former", "latter", "alphabetical", "vice", "both"})
_OTHER = frozenset({"other", "others", "more", "such", "same", "another", "many", "some", "etc"})
"""Words that look back at the parts before theirs."""
_GOES_ON = frozenset({"'s", "'", "’", "’s", "-", "–", "(", "[", "/", "that", "which", "who", "of"})
"""What hangs on the last part alone, or on all of them."""
_FIXED = frozenset(
    (
        *("rock", "law", "trial", "supply", "bread", "salt", "research", "rhythm", "track", "bed"),
        *("profit", "drum", "cause", "black", "food", "arts", "husband", "ladies", "life", "pros"),
        *("dungeon", "dungeons", "dos", "ups", "back", "day", "up", "friend", "song", "sword"),
        *("science", "art", "question", "terms", "hit", "search", "sound", "radio", "wear"),
        *("trinidad", "bosnia", "antigua", "romeo", "simon", "tom", "adam", "black"),
    )
)
"""Words that open a fixed pair: "law and order"."""


def turned_lists(sentence: Sentence, changed: dict[int, str]) -> list[Edit]:
    """Return what turns every list of nouns, names or adjectives that may be turned around."""
    in_order = any(t.dep_ == "conj" and t.ent_type_ in _AMOUNTS for t in sentence.tokens)
    if in_order or any(t.lower_ in _ORDERED for t in sentence.tokens):
        return []  # "A and B, the first and second"
    edits: list[Edit] = []
    for token in sentence.tokens:
        if token.dep_ != "conj" and (parts := _parts(token)) and _may_turn(parts):
            edits += _turned(sentence, parts, changed)
    return edits


def _parts(head: Token) -> list[list[Token]] | None:
    """Return the spans of a list "A, B and C" that begins at a word; None: it is no such list."""
    heads = [head, *head.conjuncts]
    if len(heads) < 2 or head.pos_ not in ("NOUN", "PROPN", "ADJ"):
        return None
    if any(h.pos_ != head.pos_ or h.lower_ in _FIXED for h in heads):
        return None
    spans = [_own(h, is_last=h == heads[-1]) for h in heads]
    found = [span for span in spans if span]
    return found if len(found) == len(heads) and _are_joined(found) else None


def _own(head: Token, *, is_last: bool) -> list[Token] | None:
    """Return a word with what stands before it and hangs on it; None if more hangs on it."""
    joints = {"cc", "conj", "punct"}
    if any(c.dep_ not in joints for c in head.rights) or (is_last and list(head.rights)):
        return None
    left = [t for c in head.lefts for t in c.subtree]
    span = sorted([*left, head], key=lambda t: t.i)
    is_whole = span[-1].i - span[0].i + 1 == len(span) and span[-1] == head
    return span if is_whole and not any(t.dep_ == "cc" for t in left) else None


def _are_joined(spans: list[list[Token]]) -> bool:
    """Tell whether commas stand between them, and before the last one "and" alone."""
    gaps = []
    for left, right in pairwise(spans):
        between = left[0].doc[left[-1].i + 1 : right[0].i]
        gaps.append(between.text.strip())
        if any(t.ent_type_ for t in between):  # "Trinidad and Tobago" is one name
            return False
    return gaps[-1] in ("and", ", and") and all(gap == "," for gap in gaps[:-1])


def _may_turn(spans: list[list[Token]]) -> bool:
    """Tell whether each part is the same wherever it stands."""
    tokens = [t for span in spans for t in span]
    if any(t.ent_type_ in _AMOUNTS or not t.text[0].isalnum() for t in tokens):
        return False
    heads, (before, after) = [span[-1] for span in spans], _around(spans)
    if any(t.lower_ in _OTHER for t in tokens) or any(map(points_back, spans)):
        return False
    if after is not None and after.lower_ in _GOES_ON:
        return False
    # A name that began before or goes on: "the United States of America and Canada".
    if any(t.ent_iob_ == "I" for t in [*(span[0] for span in spans), *([after] if after else [])]):
        return False
    if heads[0].pos_ == "ADJ":
        is_bare = all(len(span) == 1 for span in spans)
        return is_bare and heads[0].dep_ in ("amod", "acomp") and not _compared(heads)
    if after is not None and after.pos_ in _NOUNS:
        return False  # "health and safety rules"; or the last part is a verb after all
    if before is not None and before.pos_ in ("PROPN", "ADJ"):
        return False  # "northern France and Spain"
    if heads[0].dep_ in ("compound", "nmod", "amod", "poss", "npadvmod"):
        return False
    if heads[0].pos_ != "PROPN":
        return _are_alike(spans)
    is_free = before is None or before.pos_ in ("ADP", "PUNCT", "VERB", "DET", "CCONJ")
    return is_free and _are_names(spans)  # "northwestern South Asia and Central Asia"


def _around(spans: list[list[Token]]) -> tuple[Token | None, Token | None]:
    """Return what stands before and behind a list."""
    doc, first, last = spans[0][0].doc, spans[0][0].i, spans[-1][-1].i
    return (doc[first - 1] if first else None, doc[last + 1] if last + 1 < len(doc) else None)


def _compared(heads: list[Token]) -> bool:
    return any(h.tag_ != "JJ" for h in heads)


def _are_names(spans: list[list[Token]]) -> bool:
    """Tell whether all are whole names; people all with one word or all with several."""
    sizes = {len(span) > 1 and span[0].ent_type_ == "PERSON" for span in spans}
    kinds = {t.ent_type_ for span in spans for t in span}
    is_title = any(t.tag_ in ("NNPS", "NNS") for span in spans for t in span[:-1])
    return len(sizes) == 1 and len(kinds) == 1 and kinds <= NAMES and not is_title


def _are_alike(spans: list[list[Token]]) -> bool:
    """Tell whether a word before the list cannot belong to its first part alone, or to all."""
    return all(len(span) > 1 for span in spans) or all(
        len(span) == 1 for span in _without_article(spans)
    )


def _without_article(spans: list[list[Token]]) -> list[list[Token]]:
    """Leave an article that is said once, "the kings and poets", where it stands."""
    first, *rest = spans
    is_shared = first[0].dep_ == "det" and not any(t.dep_ == "det" for span in rest for t in span)
    return [first[1:], *rest] if is_shared and len(first) > 1 else spans


def _turned(sentence: Sentence, spans: list[list[Token]], changed: dict[int, str]) -> list[Edit]:
    spans = _without_article(spans)
    words = [text(span, changed) for span in spans][::-1]
    if spans[0][0].i == sentence.tokens[0].i:
        last = lowered(words[-1], spans[0][0])
        if last is None:
            return []
        words[0], words[-1] = capital(words[0]), last
    before = spans[0][0].i - 1
    article = sentence.tokens[0].doc[before].lower_ if before >= 0 else ""
    if article in ("a", "an") and opens_with_a_vowel(words[0]) != (article == "an"):
        return []
    if len(set(words)) < len(words):
        return []
    return [Edit(s[0].i, s[-1].i + 1, w) for s, w in zip(spans, words, strict=True)]
