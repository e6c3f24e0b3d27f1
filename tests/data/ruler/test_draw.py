import json
import lzma
import uuid
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from braidlm.arch.tasks.ruler import ONE_NEEDLE, RulerTask
from braidlm.data.ruler.draw import Hidden
from braidlm.data.ruler.haystack import Haystack
from braidlm.data.ruler.items import count_with
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .oracle import answer, asked_keys, needles


class Quarters(ByteTokenizer):
    """Counts as a subword tokenizer does: four characters are a token."""

    def encode(self, text):
        return np.zeros(-(-len(text) // 4), dtype=np.int64)


TOKENIZER = Quarters()
COUNT = count_with(TOKENIZER)
HIDDEN = [name for name in get_args(RulerTask.model_fields["task"].annotation) if name[:2] != "qa"]
SENTENCES = [f"This is sentence {i} of a long and quiet essay about nothing." for i in range(400)]


@pytest.fixture(scope="module")
def essay(tmp_path_factory):
    path = tmp_path_factory.mktemp("essay") / "essay.json.xz"
    path.write_bytes(lzma.compress(json.dumps({"text": "\n".join(SENTENCES)}).encode()))
    return str(path)


def items_of(name, length, essay, depth=None, n=8, seed=0):
    task = RulerTask(task=name, n_items=n, haystack=essay)
    return Hidden(task, TOKENIZER).items(length, depth, seed)


def score(item, said):
    found = [ref.lower() in said.lower() for ref in item.answers]
    return sum(found) / len(found)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("length", [1000, 5000])
def test_a_reader_by_rule_answers_everything_and_a_constant_nothing(name, length, essay):
    items = items_of(name, length, essay)
    assert [score(item, answer(name, item.prompt)) for item in items] == [1.0] * len(items)
    assert sum(score(item, "the answer is 4210") for item in items) == 0
    for item in items:
        assert COUNT(item.prompt) + item.n_new <= length
        assert not any(ref in item.prefix for ref in item.answers)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(HIDDEN), st.integers(800, 9000), st.integers(0, 2**32))
@example("cwe", 8585, 0)
def test_lengths_are_filled_and_never_exceeded(essay, name, length, seed):
    item = items_of(name, length, essay, n=1, seed=seed)[0]
    n_tokens = COUNT(item.prompt) + item.n_new
    # From 4096 on a text grows by 25 lines or 500 words.
    step = 100 if length < 4096 else 800
    # The built-in list has 701 words. Each of them comes once, from 4096 on ten of them 30 times
    # and the others 3 times; a longer item is as long as that.
    n_words = 701 if length < 4096 else 10 * 30 + 691 * 3
    is_all = name == "cwe" and f" {n_words}. " in item.prompt
    assert n_tokens <= length
    assert n_tokens > length - step or is_all
    assert score(item, answer(name, item.prompt)) == 1


@pytest.mark.parametrize("name", [name for name in HIDDEN if name.startswith("niah")])
def test_keys_and_values_differ_and_are_as_many_as_published(name, essay):
    n_keys = {"niah_multikey_1": 4, "niah_multiquery": 4}.get(name, 1)
    n_values = 4 if name == "niah_multivalue" else 1
    for item in items_of(name, 2000, essay, n=20):
        found = needles(item.prompt)
        keys = [key for key, _ in found]
        if name not in ("niah_multikey_2", "niah_multikey_3"):
            assert len(found) == n_keys * n_values
            assert len(set(keys)) == n_keys
        else:
            assert len(set(keys)) == len(keys) > 20
        values = [value for _, value in found]
        assert len(set(values)) == len(values)
        assert len(asked_keys(item.prompt)) == (4 if name == "niah_multiquery" else 1)
        assert all(item.prompt.count(ref) == 1 for ref in item.answers)
        assert item.n_new == (20 if name == "niah_city" else 128)


@pytest.mark.parametrize("name", ONE_NEEDLE)
@pytest.mark.parametrize("depth", [0.0, 37.5, 100.0])
def test_a_needle_stands_at_the_depth_that_is_asked(name, depth, essay):
    for item in items_of(name, 2000, essay, depth, n=5):
        where = item.prompt.index(item.answers[0]) / (len(item.prompt) - 250)
        assert abs(item.depths[0] - depth / 100) < 0.06
        assert abs(where - depth / 100) < 0.12


def test_depths_are_drawn_evenly(essay):
    items = items_of("niah_single_2", 1500, essay, n=400)
    counts = [0] * 4
    for item in items:
        counts[min(int(item.depths[0] * 4), 3)] += 1
    assert max(abs(c - 100) for c in counts) < 45


def test_numbers_have_seven_digits_and_uuids_are_random_ones(essay):
    items = items_of("niah_multivalue", 1500, essay, n=400)
    numbers = np.array([[int(c) for c in ref] for item in items for ref in item.answers])
    assert numbers.shape == (1600, 7)
    for place, digits in enumerate(numbers.T):
        counts = np.bincount(digits, minlength=10)[place == 0 :]
        expected = 1600 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 10 + 5 * np.sqrt(20)
    for item in items_of("niah_multikey_3", 3000, essay, n=5):
        found = [uuid.UUID(text) for pair in needles(item.prompt) for text in pair]
        assert {one.version for one in found} == {4}
        ones = np.mean([one.int.bit_count() for one in found])
        assert abs(ones - (122 / 2 + 2)) < 3  # four bits say 4, two bits say which variant


def test_needles_stand_on_the_published_depths_apart_from_each_other(essay):
    """RULER's 40 depths in percent, of which every needle of a text has its own."""
    grid = np.round(np.linspace(0, 100, 40)) / 100
    for item in items_of("niah_multiquery", 6000, essay, n=60):
        n_lines = item.prompt.count("This is sentence")
        found = [int(np.abs(grid - depth).argmin()) for depth in item.depths]
        assert len(set(found)) == 4
        assert all(abs(grid[i] - d) <= 1 / n_lines for i, d in zip(found, item.depths, strict=True))


@pytest.mark.parametrize(("name", "n_keys"), [("niah_multikey_1", 4), ("niah_multikey_2", 20)])
def test_any_of_the_needles_is_asked(name, n_keys, essay):
    ranks = []
    for item in items_of(name, 1500, essay, n=400):
        found = [value for _, value in needles(item.prompt)]
        ranks.append(found.index(item.answers[0]) / len(found))
    assert len(found) >= n_keys
    counts = np.histogram(ranks, 4, (0, 1))[0]
    assert ((counts - 100) ** 2 / 100).sum() < 3 + 5 * np.sqrt(6)


def test_items_are_the_same_for_a_seed_and_others_for_another(essay):
    first, again, other = (items_of("niah_multikey_1", 3000, essay, seed=s) for s in (0, 0, 1))
    assert first == again
    assert {item.answers for item in first}.isdisjoint(item.answers for item in other)


def test_a_haystack_is_read_as_far_as_it_is_needed():
    read = []

    def texts():
        for i in range(5):
            read.append(i)
            yield f"A{i} b c. D{i} e."

    haystack = Haystack(texts())
    assert haystack.has(1)
    assert read == [0]
    assert haystack.sentences(7) == ["A0 b c.", "D0 e.", "A1 b"]
    assert read == [0, 1]
    assert not haystack.has(26)
    assert haystack.sentences(27)[-2:] == ["D4 e.", "A0 b"]
    assert read == [0, 1, 2, 3, 4]


def test_a_haystack_begins_again_where_it_ends(tmp_path):
    (tmp_path / "short.txt").write_text("One short line. Another one here.\n")
    item = items_of("niah_single_2", 3000, str(tmp_path / "short.txt"), n=1)[0]
    assert item.prompt.count("Another one here.") > 20


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("niah_single_1", 200, r"length = 200: too short for niah_single_1, .* needs \d+ tokens"),
        ("vt", 400, "length = 400: too short for vt"),
        ("fwe", 150, "length = 150: too short for fwe"),
    ],
)
def test_a_length_without_room_is_refused_in_a_sentence(name, length, message, essay):
    with pytest.raises(InputError, match=message):
        items_of(name, length, essay)


def test_what_is_needed_is_nearly_enough(essay):
    with pytest.raises(InputError) as caught:
        items_of("niah_single_1", 200, essay, n=1)
    needed = int(str(caught.value).split("needs ")[1].split(" ")[0])
    with pytest.raises(InputError):
        items_of("niah_single_1", needed - 5, essay, n=1)
    # Other words for another length: a key may be some characters longer.
    item = items_of("niah_single_1", needed + 5, essay, n=1)[0]
    assert needed - 5 < COUNT(item.prompt) + item.n_new <= needed + 5


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no words"), ('{"essay": "x"}', "no field 'text'"), ("{", "cannot be read")],
)
def test_a_haystack_without_a_text_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text or '{"text": " "}')
    with pytest.raises(InputError, match=message):
        items_of("niah_single_2", 3000, str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "niah_multivalue", "depths": (50.0,)}, "only for a task with one answer"),
        ({"depths": (101.0,)}, "must be from 0 to 100"),
        ({"lengths": (4096, 4096)}, "every value may stand there once"),
        ({"task": "qa_1", "documents": ""}, "needs a file"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RulerTask(**fields)
