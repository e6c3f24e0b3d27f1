"""Pairs of prompts: they differ in the fact, at one place, and the answers follow from them."""

import itertools

import numpy as np
import pytest

from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.twins import batches, elsewhere, pairs_of, passkey_pairs, recall_pairs
from braidlm.data.mqar import generate_mqar
from braidlm.data.phonebook import Phonebook, eval_lookups
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError

BYTES = load_tokenizer("bytes")


def mqar() -> list[Document]:
    rng = np.random.default_rng(0)
    items = generate_mqar(30, vocab_size=40, n_pairs=4, length=32, rng=rng, alpha=1.0)
    rows = zip(
        items.tokens,
        items.query_positions,
        items.answers,
        items.pair_positions[..., 0],
        strict=True,
    )
    return [
        Document(
            str(i),
            tokens,
            tuple(
                Asked(int(q), (int(v),), (int(k) + 1, int(k) + 2))
                for q, v, k in zip(*more, strict=True)
            ),
        )
        for i, (tokens, *more) in enumerate(rows)
    ]


def phonebook(order) -> list[Document]:
    items = eval_lookups(Phonebook(BYTES), 5, length=400, order=order)
    found = []
    for i, item in enumerate(items):
        source = item.values[item.asked[-1]]
        asked = Asked(len(item.prompt) - 1, tuple(item.answer.tolist()), source)
        found.append(Document(str(i), item.prompt, (asked,)))
    return found


def text(n, length) -> list[Document]:
    rng = np.random.default_rng(0)
    return [
        Document(str(i), np.concatenate(([BYTES.bos_id], rng.integers(97, 120, length - 1))))
        for i in range(n)
    ]


def make(kind):
    if kind == "text":
        return pairs_of(Inputs("", "text", {}, text(8, 200), BYTES))
    documents = mqar() if kind == "mqar" else phonebook(kind)
    return pairs_of(Inputs("x", "recall", {}, documents, BYTES))


@pytest.mark.parametrize("kind", ["mqar", "text", "standard", "reversed"])
def test_prompts_differ_in_the_fact_alone(kind):
    pairs = make(kind)
    assert len(pairs) >= 5
    for pair in pairs:
        assert len(pair.a) == len(pair.b)
        place = len(pair.a) + len(pair.question) - pair.gap
        fact = slice(place, place + len(pair.answer_a))
        assert (pair.a[fact] == pair.answer_a).all()
        assert (pair.b[fact] == pair.answer_b).all()
        assert (pair.answer_a != pair.answer_b).any()
        same = np.ones(len(pair.a), dtype=bool)
        same[fact] = False
        assert (pair.a[same] == pair.b[same]).all()


@pytest.mark.parametrize("kind", ["mqar", "text", "standard", "reversed"])
def test_the_control_has_the_other_answer_where_nobody_asks(kind):
    for pair in make(kind):
        assert pair.c is not None
        place = len(pair.a) + len(pair.question) - pair.gap
        own = slice(place - len(pair.question), place + len(pair.answer_a))
        assert (pair.c[own] == pair.a[own]).all()
        changed = np.flatnonzero(pair.c != pair.a)
        assert 1 <= len(changed) <= len(pair.answer_b)
        if kind == "mqar":  # the value of another key
            (at,) = changed
            assert pair.c[at] == pair.answer_b[0]
            others = {int(asked.source[0]) for d in mqar() if d.id == pair.id for asked in d.asked}
            assert at in others - {place}


def test_a_short_prompt_has_no_control():
    tokens = np.array([3, 5, 9, 3])
    documents = [Document("0", tokens, (Asked(3, (5, 9), (1, 3)),))]
    documents += [Document("1", tokens + 1, (Asked(3, (6, 10), (1, 3)),))]
    pairs = recall_pairs(documents)
    assert [pair.c for pair in pairs] == [None, None]
    ((_, tw),) = batches(pairs, 64)
    assert tw.c is None
    assert (
        elsewhere(np.array([1, 2, 2, 2]), np.array([2]), (0, 1), np.random.default_rng(0)) is None
    )


@pytest.mark.parametrize("kind", ["mqar", "text", "standard", "reversed"])
def test_the_question_is_the_cue_of_the_fact(kind):
    for pair in make(kind):
        place = len(pair.a) + len(pair.question) - pair.gap
        n = len(pair.question)
        assert (pair.a[place - n : place] == pair.question).all()
        assert n == 1 or kind != "mqar" or pair.a[-1] != pair.a[place - n - 1]


def test_texts():
    whole = make("standard")[0]
    assert BYTES.decode(whole.question).endswith(":")
    assert len(BYTES.decode(whole.answer_a)) == 8
    found = make("text")
    said = BYTES.decode(np.concatenate((found[0].a, found[0].question)))
    assert said.startswith(" The pass key is ")
    assert said.endswith(" The pass key is")
    # Text of 31, 63, 127 and 199 tokens stands between "16 + 6 + 1" tokens and 16.
    assert [pair.gap for pair in found[:5]] == [54, 86, 150, 222, 54]


def test_few_documents_have_the_shortest_and_the_longest_gap():
    def gaps(n):
        return [pair.gap - 23 for pair in passkey_pairs(text(n, 200), BYTES)]

    assert (gaps(1), gaps(2), gaps(3)) == ([199], [31, 199], [31, 127, 199])


def test_the_other_answer_is_none_of_the_prompts_own():
    for document, pair in zip(mqar(), recall_pairs(mqar()), strict=True):
        assert tuple(pair.answer_b) not in {asked.answer for asked in document.asked}


def test_batches_hold_every_pair_once_with_its_like():
    pairs = make("mqar")
    seen = []
    for numbers, tw in batches(pairs, 64):
        seen += numbers
        for row, number in enumerate(numbers):
            assert (tw.a[row].numpy() == pairs[number].a).all()
            assert tw.c is not None
            assert (tw.c[row].numpy() == pairs[number].c).all()
            assert (tw.answer_b[row].numpy() == pairs[number].answer_b).all()
    assert sorted(seen) == list(range(len(pairs)))


def test_what_cannot_be_made_is_said():
    with pytest.raises(InputError, match="1 prompts: no prompt has another answer"):
        recall_pairs(mqar()[:1])


def test_a_tokenizer_of_uneven_numbers_is_refused(monkeypatch):
    lengths = itertools.count(1)
    monkeypatch.setattr(type(BYTES), "encode", lambda self, text: np.arange(next(lengths)))
    with pytest.raises(InputError, match="no two numbers of 5 digits"):
        passkey_pairs(text(1, 50), BYTES)
