"""Several look-ups at once: answers follow from the book, lengths are filled, depths are met."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from braidlm.data.phonebook_keys import Kind, MultiLookup, check, draw, pairs
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import ByteTokenizer, JSONTokenizer
from braidlm.errors import InputError

BYTES = ByteTokenizer()


def read(item: MultiLookup, kind: Kind) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """The names of the book, and what every example and the query ask and answer."""
    first, *parts = (item.prompt + item.answer).split("\n\n")
    if kind.order == "standard":
        parts = [first, *parts]
    book, asked = (part.splitlines() for part in parts)
    number_of = dict(line.split(": ") for line in book)
    assert len(number_of) == len(set(number_of.values())) == len(book) == item.n_entries
    assert all(len(n) == kind.n_digits and n.isdigit() for n in number_of.values())
    names = [line.split(": ")[0].split(", ") for line in asked]
    answers = [line.split(": ")[1].split(", ") for line in asked]
    assert answers == [[number_of[name] for name in group] for group in names]
    if kind.order == "reversed":
        assert [line.split(", ") for line in first.splitlines()] == names
    return list(number_of), names, answers


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(1300, 2000),
    kind=st.builds(
        Kind,
        n_keys=st.integers(1, 5),
        n_digits=st.sampled_from((4, 7, 10)),
        n_examples=st.integers(0, 2),
        order=st.sampled_from(("standard", "reversed")),
        depth=st.sampled_from((None, 0.0, 0.5, 1.0)),
    ),
)
def test_the_answer_follows_from_the_prompt(seed, length, kind):
    check(length, kind, BYTES)
    item = draw(generator(seed), length, kind, BYTES)
    book, names, answers = read(item, kind)
    assert len(names) == kind.n_examples + 1
    asked = list(itertools.chain(*names))
    assert len(set(asked)) == len(asked) == kind.n_asked
    assert item.prompt.endswith(", ".join(names[-1]) + ":")
    assert list(item.numbers) == answers[-1]
    assert [book[place] for place in item.places] == names[-1]
    if kind.depth is not None:
        row = sorted(item.places)
        assert row == list(range(row[0], row[0] + kind.n_keys))
        assert row[0] == round(kind.depth * (item.n_entries - kind.n_keys))


@given(seed=st.integers(0, 10**6), length=st.integers(500, 3000))
def test_the_length_is_met_from_below(seed, length):
    kind = Kind()
    item = draw(generator(seed), length, kind, BYTES)
    used = 1 + len(item.prompt.encode()) + kind.n_answer
    longest = max(len(line) for line in item.prompt.splitlines()[: item.n_entries]) + 1
    assert length - longest - 12 < used <= length
    assert len(item.answer) <= kind.n_answer


def test_a_tokenizer_that_merges_is_counted_whole(tmp_path):
    """Line ends, names and digits may share tokens: what counts is the whole prompt."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [next(pairs(2000, Kind(), BYTES, seed))[0] for seed in range(6)]
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    inner.train_from_iterator(texts, trainer)
    inner.save(str(tmp_path / "t.json"))
    tokenizer, kind = JSONTokenizer(tmp_path / "t.json"), Kind(n_keys=2)
    for length in (256, 400, 1000):
        sizes = [
            len(tokenizer.encode(draw(generator(i), length, kind, tokenizer).prompt))
            for i in range(20)
        ]
        assert max(sizes) <= length - 1 - kind.n_answer
        assert min(sizes) > length - 1 - kind.n_answer - 40


def test_places_are_even_and_apart():
    kind = Kind(n_keys=2, n_examples=0)
    items = [draw(generator(i), 400, kind, BYTES) for i in range(1500)]
    shares = np.array([[p / (item.n_entries - 1) for p in item.places] for item in items])
    assert shares.mean(0) == pytest.approx([0.5, 0.5], abs=0.03)
    assert np.histogram(shares, 4, (0, 1))[0] == pytest.approx([750] * 4, rel=0.15)
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.15


def test_pairs_have_a_stream_of_their_own():
    kind = Kind(n_keys=2)
    mine = list(itertools.islice(pairs(400, kind, BYTES, seed=1), 20))
    assert mine == list(itertools.islice(pairs(400, kind, BYTES, seed=1), 20))
    assert not set(mine) & set(itertools.islice(pairs(400, kind, BYTES, seed=2), 20))
    asked = {draw(generator(0, EVAL, i), 400, kind, BYTES).prompt for i in range(50)}
    assert not asked & {prompt for prompt, _ in mine}
    prompt, answer = mine[0]
    book = dict(line.split(": ") for line in prompt.split("\n\n")[0].splitlines())
    names = prompt.rsplit("\n", 1)[1].removesuffix(":").split(", ")
    assert answer == " " + ", ".join(book[name] for name in names)


@pytest.mark.parametrize(
    ("length", "kind", "message"),
    [
        (300, Kind(), r"length = 300: must be at least 4\d\d tokens for 8 look-ups of 7 digits"),
        (9000, Kind(n_digits=1, n_keys=6), "n_keys = 6 with n_examples = 1: must be at most 10"),
    ],
)
def test_what_does_not_fit(length, kind, message):
    with pytest.raises(InputError, match=message):
        check(length, kind, BYTES)
    with pytest.raises(InputError, match="length = 9000: only 10 entries of 1 digits differ"):
        draw(generator(0), 9000, Kind(n_digits=1), BYTES)


def test_the_least_length_holds_every_item():
    for kind in (Kind(), Kind(n_keys=1, n_examples=0, order="reversed", depth=0.5)):
        with pytest.raises(InputError) as refused:
            check(10, kind, BYTES)
        least = int(str(refused.value).split("at least ")[1].split()[0])
        check(least, kind, BYTES)
        for i in range(100):
            read(draw(generator(i), least, kind, BYTES), kind)
