"""Pairs of prompts that differ in one fact alone, made of recall prompts or of text.

Of a recall prompt, B holds another answer where the fact stands; the question is the cue that
stood before the fact and stands before the answer (a bar marks where it begins):

    prompt A    k3 v7 k1 v4 x  x  | k1        answer v4
    prompt B    k3 v7 k1 v9 x  x  | k1        answer v9

Text gets a fact of its own in front, and lies between it and the question:

    prompt A    <bos> The pass key is 41703. (the document) | The pass key is        answer 41703

Both prompts of a pair have equally many tokens, so that every token after the fact stands at the
same position in both. The control prompt C has B's tokens at another place, so that its answer is
A's: at another fact that could be asked for, or else anywhere but at the fact and its cue:

    prompt C    k3 v9 k1 v4 x  x  | k1        answer v4

Source of the passkey: Mohtashami and Jaggi 2023 (arXiv 2305.16300).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.interchange import Twins
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.scoring import at_once

CUE, N_DIGITS = " The pass key is", 5
LONGEST_CUE = 64
"""Tokens of a question at most: a text that repeats itself has no clear beginning of the cue."""
TRIES = 100
"""How often another answer is looked for."""


class Pair(NamedTuple):
    """One item: two prompts, their question and their answers, each (n,) int64."""

    id: str
    gap: int
    """Tokens from the fact's first token to the end of the question: how far back it lies."""
    a: np.ndarray
    b: np.ndarray
    question: np.ndarray
    answer_a: np.ndarray
    answer_b: np.ndarray
    c: np.ndarray | None
    """Prompt C, whose answer is A's; None where a prompt is too short for it."""


def pairs_of(inputs: Inputs) -> list[Pair]:
    """Return a pair for each document; see the top of this file.

    Raises:
        InputError: no document of which a pair can be made, with the reason.
    """
    if inputs.kind == "recall":
        return recall_pairs(inputs.documents)
    assert inputs.tokenizer is not None
    return passkey_pairs(inputs.documents, inputs.tokenizer)


def batches(pairs: Sequence[Pair], vocab_size: int) -> Iterator[tuple[list[int], Twins]]:
    """Yield every pair once, with those of equal lengths together: their numbers and tokens.

    Args:
        pairs: the items.
        vocab_size: of the model, which bounds how many are asked together.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        shape = (len(pair.a), len(pair.question), len(pair.answer_a), pair.c is not None)
        alike.setdefault(shape, []).append(number)
    for (length, asked, answered, has_c), numbers in alike.items():
        n = at_once(length + asked + answered, answered * vocab_size)
        for first in range(0, len(numbers), n):
            part = numbers[first : first + n]
            columns = list(zip(*(pairs[i][2:] for i in part), strict=True))
            used = columns if has_c else columns[:-1]
            yield part, Twins(*(torch.from_numpy(np.stack(rows)) for rows in used))


def recall_pairs(documents: Sequence[Document], seed: int = 0) -> list[Pair]:
    """Return a pair for one random question of each prompt.

    The other answer is that of a question of another prompt, of equally many tokens, and none of
    the prompt's own. A prompt for which there is none is left out.

    Raises:
        InputError: it is so for every prompt.
    """
    answers = sorted({asked.answer for document in documents for asked in document.asked})
    found = []
    for number, document in enumerate(documents):
        rng = generator(seed, EVAL, "twins", number)
        asked = document.asked[rng.integers(len(document.asked))]
        other = _other_answer(asked, document, answers, rng)
        if other is not None:
            found.append(_recall_pair(document, asked, other, rng))
    if not found:
        raise InputError(
            f"{len(documents)} prompts: no prompt has another answer of as many tokens as its own; "
            "give more documents"
        )
    return found


def _other_answer(
    asked: Asked,
    document: Document,
    answers: Sequence[tuple[int, ...]],
    rng: np.random.Generator,
) -> tuple[int, ...] | None:
    own = {one.answer for one in document.asked}
    fits = [one for one in answers if len(one) == len(asked.answer) and one not in own]
    return fits[rng.integers(len(fits))] if fits else None


def _recall_pair(
    document: Document, asked: Asked, other: tuple[int, ...], rng: np.random.Generator
) -> Pair:
    (first, stop), end = asked.source, asked.query + 1
    changed = document.tokens.copy()
    changed[first:stop] = other
    cue = cue_length(document.tokens, first, end)
    start = end - cue
    others = [one.source[0] for one in document.asked if one.source != asked.source]
    answer = np.array(other)
    return Pair(
        id=document.id,
        gap=end - first,
        a=document.tokens[:start],
        b=changed[:start],
        question=document.tokens[start:end],
        answer_a=np.array(asked.answer),
        answer_b=answer,
        c=elsewhere(document.tokens[:start], answer, (first - cue, stop), rng, others),
    )


def elsewhere(
    prompt: np.ndarray,
    tokens: np.ndarray,
    kept: tuple[int, int],
    rng: np.random.Generator,
    places: Sequence[int] = (),
) -> np.ndarray | None:
    """Return a prompt with some tokens written over others, which changes it; None: no place.

    Args:
        prompt: (T,) int64.
        tokens: (n,) int64.
        kept: first token that stays as it is, and one past the last; token 0 stays too.
        rng: chooses among the places.
        places: where the tokens should begin; if there is none that fits, anywhere.
    """
    n = len(tokens)

    def fits(place: int) -> bool:
        is_free = place + n <= kept[0] or place >= kept[1]
        return is_free and bool((prompt[place : place + n] != tokens).any())

    anywhere = range(1, len(prompt) - n + 1)
    free = [at for at in places if at in anywhere and fits(at)] or [*filter(fits, anywhere)]
    if not free:
        return None
    at, found = free[rng.integers(len(free))], prompt.copy()
    found[at : at + n] = tokens
    return found


def cue_length(tokens: np.ndarray, first: int, end: int) -> int:
    """Tokens that stand both before the fact and before the answer, at least 1."""
    most = min(first, end - first - 1, LONGEST_CUE)
    before, asking = tokens[first - most : first][::-1], tokens[end - most : end][::-1]
    differs = np.flatnonzero(before != asking)
    return max(1, int(differs[0]) if len(differs) else most)


def passkey_pairs(documents: Sequence[Document], tokenizer: Tokenizer, seed: int = 0) -> list[Pair]:
    """Return a pair for each document of text: gaps double from one to the next, then again.

    The longest gap is that of the shortest document, so that each gap meets every kind of text.
    Of fewer documents than gaps, gaps are left out evenly: the shortest and the longest stay.

    Raises:
        InputError: no number has as many tokens as another.
    """
    shortest = min(len(document.tokens) for document in documents)
    doubled = [2**k for k in range(5, shortest.bit_length()) if 2**k < shortest] + [shortest]
    gaps = _spread(doubled, len(documents))
    found = []
    for number, document in enumerate(documents):
        rng = generator(seed, EVAL, "passkey", number)
        text = document.tokens[1 : gaps[number % len(gaps)]]
        found.append(_passkey_pair(document.id, text, tokenizer, rng))
    return found


def _spread(gaps: Sequence[int], n: int) -> list[int]:
    """At most n of them, evenly; of one, the longest."""
    places = np.linspace(len(gaps) - 1, 0, min(n, len(gaps))).round().astype(int)
    return [gaps[i] for i in sorted(places)]


def _passkey_pair(
    name: str, text: np.ndarray, tokenizer: Tokenizer, rng: np.random.Generator
) -> Pair:
    cue, stop = tokenizer.encode(CUE), tokenizer.encode(".")
    own, other = _two_answers(tokenizer, rng)
    bos = np.array([tokenizer.bos_id])
    a, b = (np.concatenate((bos, cue, value, stop, text)) for value in (own, other))
    gap = len(a) - len(bos)  # the cue stands before the fact and again behind the prompt
    c = elsewhere(a, other, (1, 1 + len(cue) + len(own)), rng)
    return Pair(name, gap, a, b, cue, own, other, c)


def _two_answers(tokenizer: Tokenizer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of two numbers, each with a space before it, equally many."""
    own = _number(tokenizer, rng)
    for _ in range(TRIES):
        other = _number(tokenizer, rng)
        if len(other) == len(own) and (other != own).any():
            return own, other
        own = other
    raise InputError(
        f"tokenizer '{tokenizer.name}': no two numbers of {N_DIGITS} digits with equally many "
        f"tokens were found in {TRIES} tries"
    )


def _number(tokenizer: Tokenizer, rng: np.random.Generator) -> np.ndarray:
    return tokenizer.encode(f" {str(rng.integers(10**N_DIGITS)).zfill(N_DIGITS)}")
