"""Pairs of prompts that differ in one fact alone: recall items, look-ups, and a passkey in text.

The passkey, with a gap that filler sentences make; a bar stands where the question begins:

    prompt A    <bos>The pass key is 41703. The grass is green. The sky is blue. | The pass key is
    prompt B    <bos>The pass key is 92648. The grass is green. The sky is blue. | The pass key is
    answers     A: 41703    B: 92648

Both prompts of a pair have equally many tokens, so that every token after the fact stands at the
same position in both.

Source of the passkey: Mohtashami and Jaggi 2023 (arXiv 2305.16300).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from braidlm.analysis.interchange import Twins
from braidlm.data.mqar import MQARItems, counterfactual
from braidlm.data.phonebook import Lookup
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.scoring import at_once

FILLER = (
    *(" The grass is green.", " The sky is blue.", " The sun is warm.", " The road is long."),
    *(" Rivers run to the sea.", " Here we go again.", " There and back again."),
)
TRIES = 100
"""How often another answer of equally many tokens is looked for."""


class Pair(NamedTuple):
    """One item: two prompts, their question and their answers, each (n,) int64."""

    id: str
    gap: int
    """Tokens from the fact's answer to the end of the question: how far back it must be found."""
    a: np.ndarray
    b: np.ndarray
    question: np.ndarray
    answer_a: np.ndarray
    answer_b: np.ndarray


def batches(pairs: Sequence[Pair], vocab_size: int) -> Iterator[tuple[list[int], Twins]]:
    """Yield every pair once, with those of equal lengths together: their numbers and tokens.

    Args:
        pairs: the items.
        vocab_size: of the model, which bounds how many are asked together.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        shape = (len(pair.a), len(pair.question), len(pair.answer_a))
        alike.setdefault(shape, []).append(number)
    for (length, asked, answered), numbers in alike.items():
        n = at_once(length + asked + answered, answered * vocab_size)
        for first in range(0, len(numbers), n):
            part = numbers[first : first + n]
            columns = zip(*(pairs[i][2:] for i in part), strict=True)
            yield part, Twins(*(torch.from_numpy(np.stack(rows)) for rows in columns))


def mqar_pairs(items: MQARItems, seed: int = 0) -> list[Pair]:
    """Return one pair per item: B holds another value of one random key, which is asked for.

    The question is the key, where the item asks for it.
    """
    n, n_pairs = items.answers.shape
    rng = generator(seed, EVAL, "twins", n, n_pairs)
    which, rows = rng.integers(n_pairs, size=n), np.arange(n)
    other = counterfactual(items, which, rng)
    asked = items.query_positions[rows, which]
    gaps = asked - items.pair_positions[rows, which, -1]
    return [
        Pair(
            id=f"{n_pairs}/{i}",
            gap=int(gaps[i]),
            a=items.tokens[i, :at],
            b=other.tokens[i, :at],
            question=items.tokens[i, at : at + 1],
            answer_a=items.answers[i, which[i], None],
            answer_b=other.answers[i, which[i], None],
        )
        for i, at in enumerate(asked.tolist())
    ]


def lookup_pairs(items: Sequence[Lookup], tokenizer: Tokenizer, seed: int = 0) -> list[Pair]:
    """Return one pair per look-up: in B the number that is asked for is another one.

    The question is the last name with its colon. In the reversed order, where names stand before
    the book too, the model knows it before.

    Raises:
        InputError: a tokenizer for which no other number has equally many tokens.
    """
    rng = generator(seed, EVAL, "twins", "phonebook", len(items))
    return [_lookup_pair(item, tokenizer, rng, i) for i, item in enumerate(items)]


def _lookup_pair(item: Lookup, tokenizer: Tokenizer, rng: np.random.Generator, i: int) -> Pair:
    key, answer, prompt = (
        tokenizer.encode(f"{item.names[item.asked[-1]]}:"),
        item.answer,
        item.prompt,
    )
    fact = np.concatenate((key, answer))
    windows = np.lib.stride_tricks.sliding_window_view(prompt, len(fact))
    at = int((windows == fact).all(1).argmax()) + len(key)
    other = _another(item.number, len(answer), tokenizer, rng, taken=item.numbers)
    changed = prompt.copy()
    changed[at : at + len(answer)] = other
    boundary = len(prompt) - len(key)
    return Pair(
        id=f"phonebook/{i}",
        gap=len(prompt) - at,
        a=prompt[:boundary],
        b=changed[:boundary],
        question=key,
        answer_a=answer,
        answer_b=other,
    )


def passkey_pairs(
    tokenizer: Tokenizer, n_items: int, *, gap: int, n_digits: int = 5, seed: int = 0
) -> list[Pair]:
    """Return pairs whose fact lies `gap` tokens before the end of the question.

    Args:
        tokenizer: encodes the text.
        n_items: how many.
        gap: tokens from the number to the end of the question.
        n_digits: of the number.
        seed: of numbers and filler.

    Raises:
        InputError: a gap that does not hold the sentence around the fact and the question, or as
            `lookup_pairs`.
    """
    said, stop = tokenizer.encode("The pass key is"), tokenizer.encode(".")
    question = tokenizer.encode(" The pass key is")
    found = []
    for i in range(n_items):
        rng = generator(seed, EVAL, "passkey", gap, n_digits, i)
        number = _number(rng, n_digits)
        answer = tokenizer.encode(f" {number}")
        other = _another(number, len(answer), tokenizer, rng)
        room = gap - len(answer) - len(stop) - len(question)
        if room < 0:
            raise InputError(f"gap = {gap}: must be at least {gap - room} tokens for the question")
        after = np.concatenate((stop, _filler(tokenizer, rng, room)))
        bos = np.array([tokenizer.bos_id])
        a, b = (np.concatenate((bos, said, value, after)) for value in (answer, other))
        found.append(Pair(f"passkey/{gap}/{i}", gap, a, b, question, answer, other))
    return found


def _filler(tokenizer: Tokenizer, rng: np.random.Generator, n: int) -> np.ndarray:
    """n tokens of sentences in random order; the first sentence may be cut at its beginning."""
    parts: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    while sum(map(len, parts)) < n:
        parts.append(tokenizer.encode(FILLER[rng.integers(len(FILLER))]))
    whole = np.concatenate(parts)
    return whole[len(whole) - n :]


def _another(
    number: str,
    n_tokens: int,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    taken: Sequence[str] = (),
) -> np.ndarray:
    """Tokens of a space and another number of as many digits and tokens, not among `taken`."""
    for _ in range(TRIES):
        drawn = _number(rng, len(number))
        tokens = tokenizer.encode(f" {drawn}")
        if drawn != number and drawn not in taken and len(tokens) == n_tokens:
            return tokens
    raise InputError(
        f"tokenizer '{tokenizer.name}': no number of {len(number)} digits and {n_tokens} tokens "
        f"was found beside {number} in {TRIES} tries"
    )


def _number(rng: np.random.Generator, n_digits: int) -> str:
    return str(rng.integers(10**n_digits)).zfill(n_digits)
