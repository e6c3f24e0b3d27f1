"""Active and passive: "Y wrote X." for "X was written by Y.", and back."""

from __future__ import annotations

from collections.abc import Callable

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

Inflect = Callable[[str, str], str | None]
"""(lemma, Penn tag) -> the form, or None where it is not known."""
_NO_PASSIVE = frozenset(
    (
        *("have", "be", "become", "resemble", "cost", "weigh", "lack", "fit", "suit"),
        *("equal", "mean", "get", "let", "want", "like", "hold", "contain", "comprise"),
        *("include", "possess", "own", "reach", "enter", "leave", "join", "see", "hear"),
        *("undergo", "total", "number", "last", "take", "play", "win", "lose", "make"),
        *("give", "show", "face", "share", "serve", "receive", "feature"),
        *("mark", "score", "earn", "gain", "follow", "allow", "require", "need", "await"),
    )
)
_OBJECT = {"he": "him", "she": "her", "they": "them", "i": "me", "we": "us", "it": "it"}
_SUBJECT = {form: word for word, form in _OBJECT.items()} | {"her": "she"}
_TOO_LONG = 12


def change_voice(sentence: Sentence, changed: dict[int, str], inflect: Inflect) -> str | None:
    """Return the sentence in the other voice; None: no change."""
    root = sentence.root
    if root is None or not sentence.is_plain or root.pos_ != "VERB":
        return None
    if child(root, "conj", "cc", "neg", "ccomp", "xcomp", "advcl", "parataxis", "prt", "dative"):
        return None
    if child(root, "nsubjpass"):
        return _to_active(sentence, root, changed, inflect)
    return _to_passive(sentence, root, changed, inflect)


def _to_active(
    sentence: Sentence, root: Token, changed: dict[int, str], inflect: Inflect
) -> str | None:
    patient, agent = child(root, "nsubjpass"), child(root, "agent")
    by = None if agent is None else child(agent, "pobj")
    if patient is None or agent is None or by is None or agent.lower_ != "by":
        return None
    subject, phrase = _phrase(patient), subtree(agent)
    # What opens the sentence before its subject would have to be placed too.
    if not subject or not phrase or subject[0].i != sentence.tokens[0].i or not _is_agent(by):
        return None
    doer = [t for t in phrase if t != agent]
    verb = _active_verb(root, by, inflect)
    if verb is None or agent.i < root.i or len(doer) > _TOO_LONG:
        return None
    adverbs = [t for t in root.lefts if t.dep_ == "advmod" and t.i > subject[-1].i]
    between = [t for t in sentence.tokens if root.i < t.i < phrase[0].i]
    rest = [t for t in sentence.tokens[:-1] if t.i > phrase[-1].i]
    if rest and (rest[0].text == "," or rest[0].dep_ == "relcl"):
        return None
    moved = lowered(text(subject, changed), subject[0])
    chain = [t for t in root.lefts if t.dep_ in ("aux", "auxpass")]
    used = [*subject, *chain, *adverbs, root, *between, *phrase, *rest]
    if moved is None or len(used) + 1 != len(sentence.tokens) or any(t.text == "," for t in doer):
        return None
    words = [
        _cased(doer, _SUBJECT, changed),
        text(adverbs, changed),
        verb,
        _cased(subject, _OBJECT, changed) if len(subject) == 1 else moved,
        text(between, changed),
        text(rest, changed),
    ]
    return _sentence(words)


def _to_passive(
    sentence: Sentence, root: Token, changed: dict[int, str], inflect: Inflect
) -> str | None:
    subject, object_ = child(root, "nsubj"), child(root, "dobj")
    if subject is None or object_ is None or root.lemma_ in _NO_PASSIVE:
        return None
    if root.tag_ not in ("VBD", "VBZ", "VBP") or child(root, "aux", "oprd"):
        return None
    doer, patient = _phrase(subject), _phrase(object_)
    if not doer or not patient or doer[0].i != sentence.tokens[0].i or not _can_be_passive(patient):
        return None
    if not _is_agent(subject) or subject.pos_ == "PRON" or len(doer) > _TOO_LONG:
        return None
    form = inflect(root.lemma_, "VBN")
    adverbs = [t for t in root.lefts if t.dep_ == "advmod" and t.i > doer[-1].i]
    between = [t for t in sentence.tokens if root.i < t.i < patient[0].i]
    rest = [t for t in sentence.tokens[:-1] if t.i > patient[-1].i]
    agent = lowered(text(doer, changed), doer[0])
    used = [*doer, *adverbs, root, *patient, *rest]
    if form is None or agent is None or len(used) + 1 != len(sentence.tokens):
        return None
    if between or points_back(rest):
        return None
    be = _be(root.tag_, _is_plural(object_))
    words = [text(patient, changed), be, text(adverbs, changed), form, "by", agent]
    return _sentence([*words, text(rest, changed)])


def _phrase(head: Token) -> list[Token] | None:
    """Return a noun phrase that has no clause or apposition in it."""
    tokens = subtree(head)
    odd = ("relcl", "acl", "appos", "ccomp", "advcl", "cc") if head.pos_ != "PROPN" else ("relcl",)
    if not tokens or len(tokens) > _TOO_LONG or any(t.text == "," for t in tokens):
        return None
    return None if any(t.dep_ in odd or t.tag_ in ("WDT", "WP", "EX") for t in tokens) else tokens


def _is_agent(noun: Token) -> bool:
    """Tell whether it can do something: "by the king", not "by 1990", "by hand", "by sailing"."""
    if noun.ent_type_ in ("DATE", "TIME", "CARDINAL", "PERCENT", "MONEY", "QUANTITY", "ORDINAL"):
        return False
    if noun.pos_ in ("PROPN", "PRON"):
        return noun.lower_ not in ("which", "whom", "who", "that", "there", "all", "both", "each")
    has_article = child(noun, "det", "poss") is not None
    return noun.pos_ == "NOUN" and (has_article or noun.tag_ == "NNS")


def _can_be_passive(patient: list[Token]) -> bool:
    amounts = ("DATE", "TIME", "PERCENT", "MONEY", "QUANTITY", "CARDINAL")
    head = next(t for t in patient if t.head not in patient)
    is_thing = head.pos_ in ("NOUN", "PROPN") and head.ent_type_ not in amounts
    has_article = head.pos_ == "PROPN" or child(head, "det") is not None or head.tag_ == "NNS"
    # "John lost his keys": the owner would come after what is owned.
    return is_thing and has_article and not points_back(patient)


def _active_verb(root: Token, by: Token, inflect: Inflect) -> str | None:
    """Return the verb in the tense of "was written", "can be written", "has been written"."""
    chain = [t for t in root.lefts if t.dep_ in ("aux", "auxpass")]
    if not chain or root.tag_ != "VBN":
        return None
    words = [t.lower_ for t in chain]
    if words in (["was"], ["were"]):
        return inflect(root.lemma_, "VBD")
    is_plural = _is_plural(by)
    if words in (["is"], ["are"]):
        return inflect(root.lemma_, "VBP" if is_plural else "VBZ")
    if len(chain) == 2 and words[1] == "be" and chain[0].tag_ == "MD":
        return f"{words[0]} {root.lemma_}"
    if words in (["has", "been"], ["have", "been"], ["had", "been"]):
        have = "had" if words[0] == "had" else "have" if is_plural else "has"
        return f"{have} {root.text}"
    return None


def _is_plural(noun: Token) -> bool:
    has_more = any(c.dep_ == "conj" for c in noun.children)
    return has_more or noun.tag_ in ("NNS", "NNPS") or noun.lower_ in ("they", "them", "we", "us")


def _be(tag: str, is_plural: bool) -> str:
    if tag == "VBD":
        return "were" if is_plural else "was"
    return "are" if is_plural else "is"


def _cased(tokens: list[Token], forms: dict[str, str], changed: dict[int, str]) -> str:
    """Return a noun phrase, a pronoun in its other form."""
    if len(tokens) == 1 and tokens[0].lower_ in forms:
        return forms[tokens[0].lower_]
    return text(tokens, changed)


def _sentence(words: list[str]) -> str:
    return capital(" ".join(word for word in words if word).replace(" ,", ",")) + "."
