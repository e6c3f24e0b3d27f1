import numpy as np
import pytest

from braidlm.data import near_duplicates as module
from braidlm.data.near_duplicates import NearDuplicates, _shingles, _signature

RNG = np.random.default_rng(0)


def words(n, start=0):
    return [f"w{i}" for i in RNG.integers(start, start + 10_000, n)]


def found(texts):
    near = NearDuplicates()
    for i, text in enumerate(texts):
        near.add(f"d{i}", text)
    return near.summary()


def jaccard(a, b):
    first, second = (set(_shingles(t).tolist()) for t in (a, b))
    return len(first & second) / len(first | second)


def changed(text, n):
    """The text with n words in a row replaced: n + 4 of its 5-grams are new."""
    parts = text.split()
    return " ".join([*parts[:50], *words(n, 20_000), *parts[50 + n :]])


@pytest.mark.parametrize("n_changed", [2, 20, 60, 150])
def test_the_signature_estimates_the_jaccard_similarity(n_changed):
    errors = []
    for _ in range(40):
        a = " ".join(words(400))
        b = changed(a, n_changed)
        same = (_signature(_shingles(a)) == _signature(_shingles(b))).mean()
        errors.append(same - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 0.07


def test_exact_and_near_duplicates_are_told_apart():
    base = [" ".join(words(400)) for _ in range(30)]
    near = changed(base[3], 10)  # J about 0.93
    far = changed(base[4], 120)  # J about 0.52
    told = found([*base, base[0].upper() + "!", base[0], near, far, "a b", "a b", "c d"])
    assert told["documents"] == 37
    assert told["exact"] == 3  # case and punctuation do not count
    assert told["near"] == 1
    [example] = told["examples"]
    assert (example["first"], example["second"]) == ("d3", "d32")
    assert example["similarity"] == pytest.approx(jaccard(base[3], near), abs=0.15)


def test_a_chain_of_near_duplicates_is_counted_once_each():
    a = " ".join(words(400))
    chain = [a, changed(a, 5), changed(a, 6), changed(a, 7)]
    assert found([*chain, " ".join(words(300))])["near"] == 3


def test_documents_without_words_and_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 2)
    told = found(["", "...", "a b c", "d e f", "a b c"])
    assert (told["documents"], told["exact"], told["beyond"]) == (2, 0, 1)
    assert found([]) == {"documents": 0, "exact": 0, "near": 0, "beyond": 0, "examples": []}
