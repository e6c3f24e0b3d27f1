"""Documents cut to a number of tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.data.cutting import cut_document, words_of
from braidlm.data.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
TEXT = " ".join(f"w{i}" for i in range(40))


def _cut(text, keep, n, seed=0, prompt: Callable[[str], str] = str) -> Any:
    return cut_document(words_of(text, BYTES), keep, n, BYTES, np.random.default_rng(seed), prompt)


def test_what_fits_is_not_touched():
    assert _cut(f" {TEXT}\n", (3, 5), len(TEXT) + 2) == f" {TEXT}\n"


def test_without_an_answer_the_beginning_stays():
    assert _cut(TEXT, None, 20) == "w0 w1 w2 w3 w4 w5 w6"
    assert len(_cut(TEXT, None, 20)) == 20


def test_parts_begin_anywhere_that_keeps_the_answer_and_are_full():
    at = TEXT.index("w20")
    parts = {_cut(TEXT, (at, at + 3), 40, seed) for seed in range(300)}
    assert all("w20" in part and 37 <= len(part) <= 40 for part in parts)
    # Ten words of three characters and a space fit: w20 stands first, last, and all between.
    places = {part.split().index("w20") for part in parts}
    assert places == set(range(10))


@pytest.mark.parametrize("word", ["w0", "w39"])
def test_an_answer_at_an_end_still_leaves_a_full_part(word):
    at = TEXT.index(word)
    for seed in range(20):
        part = _cut(TEXT, (at, at + len(word)), 30, seed)
        assert word in part.split()
        assert len(part) >= 26


def test_the_prompt_around_the_part_counts_once_for_each_time_it_is_read():
    def twice(part: str) -> str:
        return f"{part}\n{part} Question?"

    at = TEXT.index("w20")
    part = _cut(TEXT, (at, at + 3), 100, prompt=twice)
    assert "w20" in part
    assert 90 <= len(twice(part)) <= 100


def test_what_cannot_stay_is_told():
    assert _cut(TEXT, (0, 9), 5) is None
    assert _cut(TEXT, (0, 9), 8, prompt=lambda part: f"{part}?") is None
    assert _cut("w0 w1 w2", (0, 8), 8) == "w0 w1 w2"
    assert _cut("w0 w1 w2 w3", (0, 8), 8) == "w0 w1 w2"


@given(
    words=st.lists(st.text("aé東 \n", min_size=1, max_size=9), min_size=1, max_size=30),
    place=st.integers(0, 29),
    n=st.integers(1, 200),
    seed=st.integers(0, 9),
)
def test_a_part_is_a_run_of_the_document_that_fits_and_holds_what_it_must(words, place, n, seed):
    words[place % len(words)] = "KEY"
    text = " ".join(words)
    keep = (text.index("KEY"), text.index("KEY") + 3)
    part = _cut(text, keep, n, seed)
    if part is None:
        assert n < len(max(text.split(), key=lambda w: "KEY" in w).encode())
    else:
        assert len(part.encode()) <= n
        assert part in text
        assert "KEY" in part
