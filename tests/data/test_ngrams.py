import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.data import ngrams
from braidlm.data.ngrams import blocks, grams, n_words

from .conftest import make_text

PUNCTUATION = "[^0-9a-z\u00c0-\u1fff\u2080-\u2fff\u3040-\U0010ffff]"
CHARACTERS = st.sampled_from([*"abAB7 .,-\n\t", "é", "É", "\u2019", "\u00a0", "\u3002", "東", "🦊"])


def words_of(text):
    """The slow truth: lower case, punctuation is white space."""
    return re.sub(PUNCTUATION, " ", text.lower()).split()


@settings(max_examples=300)
@given(st.text(CHARACTERS, max_size=60), st.integers(1, 5))
def test_the_grams_are_those_of_the_plain_loop(text, n):
    words = words_of(text)
    found = grams(text, n)
    wanted = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert [found.spelled(i) for i in range(len(found.hashes))] == wanted
    assert n_words(text) == len(words)
    groups = {}
    for hash_, spelled in zip(found.hashes.tolist(), wanted, strict=True):
        assert groups.setdefault(spelled, hash_) == hash_
    assert len(set(groups.values())) == len(groups)


@settings(max_examples=200)
@given(st.text(CHARACTERS, max_size=40), st.integers(1, 9))
def test_characters_leave_out_what_stands_between_words(text, n):
    plain = "".join(words_of(text)).encode()
    found = grams(text, n, "characters")
    wanted = [plain[i : i + n] for i in range(len(plain) - n + 1)]
    assert len(found.hashes) == len(wanted)
    same = {}
    for hash_, stretch in zip(found.hashes.tolist(), wanted, strict=True):
        assert same.setdefault(stretch, hash_) == hash_
    assert len(set(same.values())) == len(same)


def test_a_gram_has_one_hash_wherever_it_stands():
    alone = grams("the quick brown fox", 4).hashes
    inside = grams("x " * 100_000 + "The QUICK,\nbrown-fox! " + "y " * 50, 4).hashes
    assert np.isin(alone, inside).all()
    assert not np.isin(grams("the quick fox brown", 4).hashes, inside).any()


def test_powers_have_inverses():
    powers, inverse = ngrams._powers(1 << 12)
    assert (powers * inverse == 1).all()
    assert powers[5] == np.uint64(pow(ngrams._BASE, 5, 1 << 64))


def test_blocks_hold_every_gram(monkeypatch):
    monkeypatch.setattr(ngrams, "BLOCK_CHARS", 300)
    monkeypatch.setattr(ngrams, "_OVERLAP_CHARS", 120)
    text = " ".join(make_text(i, 50) for i in range(20))
    parts = list(blocks(text))
    assert len(parts) > 10
    whole = set(grams(text, 13).hashes.tolist())
    found = {h for part in parts for h in grams(part, 13).hashes.tolist()}
    assert found == whole
    assert next(blocks("x" * 2000)) == "x" * 300  # no white space to cut at
    assert list(blocks("")) == [""]


@pytest.mark.parametrize("n", [8, 13])
def test_short_texts_have_no_grams(n):
    for text in ("", " ", "one two", "one " * (n - 1)):
        assert len(grams(text, n).hashes) == 0
    assert len(grams("one " * n, n).hashes) == 1
