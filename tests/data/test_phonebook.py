"""Phonebooks: answers follow from the book, lengths are filled from below, seeds reproduce."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.arch.experiment import DataConfig
from braidlm.arch.phonebook import PhonebookSource
from braidlm.data.inspection import inspect
from braidlm.data.packing import IGNORE
from braidlm.data.phonebook import N_NAMES, Phonebook, PhonebookStream, _name, eval_lookups
from braidlm.data.prepare import build
from braidlm.data.seeding import generator
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

BYTES = ByteTokenizer()
ORDERS = ("standard", "reversed")


def parts_of(text: str, order: str) -> list[list[str]]:
    """The lines of the names that stand first, of the book, and of the look-ups."""
    found = [part.splitlines() for part in text.split("\n\n")]
    return found if order == "reversed" else [[], *found]


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(240, 900),
    order=st.sampled_from(ORDERS),
    n_digits=st.sampled_from((4, 7, 10)),
    n_examples=st.integers(0, 2),
)
def test_the_answer_follows_from_the_prompt(seed, length, order, n_digits, n_examples):
    item = Phonebook(BYTES, n_digits, n_examples).draw(generator(seed), length, order)
    names, book, asked = parts_of(BYTES.decode(item.prompt), order)
    numbers = dict(line.split(": ") for line in book)
    assert len(numbers) == len(book) == len(set(numbers.values())) == len(item.names)
    assert all(re.fullmatch(f"[0-9]{{{n_digits}}}", number) for number in numbers.values())
    assert tuple(numbers) == item.names
    assert tuple(numbers.values()) == item.numbers
    *examples, query = asked
    assert len(examples) == n_examples
    assert all(numbers[line.split(": ")[0]] == line.split(": ")[1] for line in examples)
    assert query.endswith(":")
    assert BYTES.decode(item.answer) == f" {numbers[query[:-1]]}"
    assert item.number == numbers[query[:-1]]
    looked_up = [line.split(":")[0] for line in asked]
    assert [item.names[place] for place in item.asked] == looked_up
    assert len(set(looked_up)) == len(looked_up)
    assert names == (looked_up if order == "reversed" else [])
    assert item.tokens[0] == BYTES.bos_id
    assert BYTES.decode(item.tokens).endswith(f" {item.number}\n")


@given(seed=st.integers(0, 10**6), length=st.integers(200, 1500), order=st.sampled_from(ORDERS))
def test_the_length_is_met_from_below(seed, length, order):
    item = Phonebook(BYTES).draw(generator(seed), length, order)
    assert length - len(" :  \n") - 7 - 8 - 7 < len(item.tokens) <= length


@given(seed=st.integers(0, 10**6), room=st.integers(0, 500))
def test_a_book_is_filled_up_to_the_first_entry_that_does_not_fit(seed, room):
    book = Phonebook(BYTES)
    entries = list(book._entries(generator(seed), 600))
    found = book._fill(iter(entries), room)
    sizes = [len(f"{entry.name}: {entry.number}\n") for entry in entries]
    assert found == entries[: len(found)]
    assert sum(sizes[: len(found)]) <= room < sum(sizes[: len(found) + 1])


def test_the_queried_depth_is_uniform():
    book = Phonebook(BYTES)
    depths = []
    for item in eval_lookups(book, 3000, length=300, order="standard"):
        depths.append(
            (item.asked[-1] + np.random.default_rng(len(depths)).random()) / len(item.names)
        )
    counts = np.histogram(depths, 10, (0, 1))[0]
    assert ((counts - 300) ** 2 / 300).sum() < 9 + 5 * np.sqrt(18)


def test_digits_are_uniform_in_every_place():
    items = eval_lookups(Phonebook(BYTES, 4), 400, length=400, order="standard")
    digits = np.array([[int(c) for c in n] for item in items for n in item.numbers])
    for place in digits.T:
        counts, expected = np.bincount(place, minlength=10), len(digits) / 10
        assert ((counts - expected) ** 2 / expected).sum() < 9 + 5 * np.sqrt(18)


def test_seeds_reproduce_and_evaluation_is_another_stream():
    source = PhonebookSource(name="phonebook", lengths=(200,))
    rows = [PhonebookStream(source, BYTES, 400, seed) for seed in (0, 0, 1)]
    for number in (0, 57):
        first, again, other = (stream.row(number).tokens for stream in rows)
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.3
    asked = [eval_lookups(Phonebook(BYTES), 40, length=200, order="standard") for _ in range(2)]
    assert all((a.tokens == b.tokens).all() for a, b in zip(*asked, strict=True))
    books = {item.numbers for item in asked[0]}
    assert len(books) == 40
    trained = {tuple(BYTES.decode(rows[0].row(i).tokens).split("\n")[0:1]) for i in range(400)}
    assert not trained & {(BYTES.decode(item.tokens).split("\n")[0],) for item in asked[0]}
    more = eval_lookups(Phonebook(BYTES), 41, length=200, order="standard")
    assert [item.numbers for item in more[:40]] == [item.numbers for item in asked[0]]


@pytest.mark.parametrize("loss", ["answers", "all"])
def test_rows_hold_whole_items_and_the_declared_loss(loss):
    source = PhonebookSource(lengths=(180, 250), orders=ORDERS, n_examples=1, loss=loss)
    stream = PhonebookStream(source, BYTES, 700, seed=3)
    lengths, orders = set(), set()
    for number in range(30):
        row = stream.row(number)
        at = 0
        for piece in row.pieces:
            stop = at + piece.stop
            tokens, targets = row.tokens[at:stop], row.targets[at:stop]
            text = BYTES.decode(tokens)
            order = "reversed" if ":" not in text.split("\n")[0] else "standard"
            orders.add(order)
            lengths.add(piece.stop > 180)
            *_, asked = parts_of(text.removesuffix("\n"), order)
            learnt = targets != IGNORE
            np.testing.assert_array_equal(targets[:-1][learnt[:-1]], tokens[1:][learnt[:-1]])
            said = "".join(f" {line.split(': ')[1]}\n" for line in asked)
            everything = BYTES.decode(tokens[1:])
            assert BYTES.decode(targets[learnt]) == (said if loss == "answers" else everything)
            at = stop
        assert len(row.tokens) - at < 250
        assert (row.tokens[at:] == BYTES.pad_id).all()
        assert (row.targets[at:] == IGNORE).all()
    assert lengths == {False, True}
    assert orders == set(ORDERS)


def test_every_name_is_different():
    assert len(set(map(_name, range(N_NAMES)))) == N_NAMES == 37_248


def test_a_recipe_holds_it_and_shows_it(tmp_path):
    data = DataConfig(
        seq_len=256, sources=(PhonebookSource(lengths=(200,)),), cache_dir=str(tmp_path)
    )
    (row,) = inspect(data, 1)
    assert row["kind"] == "phonebook"
    assert row["pieces"][0]["text"].startswith("<bos>")
    assert len(row["pieces"][0]["loss"]) == 3
    summary = build(data)
    assert summary["sources"] == [{"name": "phonebook", "kind": "phonebook", "lengths": [200]}]
    assert summary["tokenizer"]["name"] == "bytes"


@pytest.mark.parametrize(
    ("length", "settings", "says"),
    [
        (
            100,
            {},
            "length = 100 must be at least 158 tokens for 3 look-ups of 7 digits in standard",
        ),
        (400, {"n_digits": 1}, "there are only 10 different entries with 1 digits"),
    ],
)
def test_what_does_not_fit(length, settings, says):
    with pytest.raises(InputError, match=says):
        Phonebook(BYTES, **settings).check(length, "standard")


def test_what_no_source_can_be():
    with pytest.raises(InputError, match="n_examples = 10: must be below 10"):
        Phonebook(BYTES, 1, 10)
    with pytest.raises(InputError, match="length = 300 is longer than seq_len = 299"):
        PhonebookStream(PhonebookSource(lengths=(300,)), BYTES, 299, 0)
    with pytest.raises(ValueError, match="source 'phonebook': length = 300 is longer than seq_len"):
        DataConfig(seq_len=299, sources=(PhonebookSource(lengths=(200, 300)),))
