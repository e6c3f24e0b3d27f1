"""Pairs of prompts: they differ in the fact, at one place, and the answers follow from them."""

import numpy as np
import pytest

from braidlm.analysis.twins import batches, lookup_pairs, mqar_pairs, passkey_pairs
from braidlm.data.mqar import generate_mqar
from braidlm.data.phonebook import Phonebook, eval_lookups
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError

BYTES = load_tokenizer("bytes")


def follows(prompt, place, answer):
    return (prompt[place : place + len(answer)] == answer).all()


def make(kind):
    if kind == "mqar":
        rng = np.random.default_rng(0)
        return mqar_pairs(
            generate_mqar(30, vocab_size=40, n_pairs=4, length=32, rng=rng, alpha=1.0)
        )
    if kind == "passkey":
        return passkey_pairs(BYTES, 5, gap=60)
    items = eval_lookups(Phonebook(BYTES), 5, length=400, order=kind)
    return lookup_pairs(items, BYTES)


@pytest.mark.parametrize("kind", ["mqar", "passkey", "standard", "reversed"])
def test_prompts_differ_in_the_fact_alone(kind):
    for pair in make(kind):
        assert len(pair.a) == len(pair.b)
        place = len(pair.a) + len(pair.question) - pair.gap
        differ = np.flatnonzero(pair.a != pair.b)
        assert len(differ)
        assert set(differ) <= set(range(place, place + len(pair.answer_a)))
        assert follows(pair.a, place, pair.answer_a)
        assert follows(pair.b, place, pair.answer_b)
        assert (pair.answer_a != pair.answer_b).any()


def test_the_question_names_the_fact():
    for pair in make("standard"):
        place = len(pair.a) + len(pair.question) - pair.gap
        assert follows(pair.a, place - len(pair.question), pair.question)
    for pair in make("mqar"):
        assert pair.a[len(pair.a) - pair.gap] == pair.question[0]
    text = BYTES.decode(np.concatenate((make("passkey")[0].a, make("passkey")[0].question)))
    assert text.startswith("The pass key is ")
    assert text.endswith(". The pass key is")


def test_batches_hold_every_pair_once_with_its_like():
    pairs = make("mqar")
    seen = []
    for numbers, tw in batches(pairs, 64):
        seen += numbers
        for row, number in enumerate(numbers):
            assert (tw.a[row].numpy() == pairs[number].a).all()
            assert (tw.answer_b[row].numpy() == pairs[number].answer_b).all()
    assert sorted(seen) == list(range(len(pairs)))


def test_what_cannot_be_made_is_said():
    with pytest.raises(InputError, match="gap = 10: must be at least 23 tokens for the question"):
        passkey_pairs(BYTES, 1, gap=10)
    book = Phonebook(BYTES, n_digits=1, n_examples=0)
    numbers = eval_lookups(book, 1, length=400, order="standard")
    with pytest.raises(InputError, match="no number of 1 digits"):
        lookup_pairs(numbers, BYTES)
