import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.data.copying import copying, lookup
from braidlm.data.packing import IGNORE
from braidlm.data.seeding import generator
from braidlm.errors import InputError


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 30), st.integers(1, 50), st.integers(0, 9), st.integers(0, 2**32))
def test_a_copy_follows_its_string(vocab, n_symbols, more, seed):
    length = 2 * n_symbols + 1 + more
    items = copying(
        4, vocab_size=vocab, n_symbols=n_symbols, length=length, rng=generator(seed, "x")
    )
    for tokens, targets in zip(items.tokens.tolist(), items.targets.tolist(), strict=True):
        sign = tokens.index(vocab - 1)
        assert sign == n_symbols
        assert targets[sign : sign + n_symbols] == tokens[:sign]
        assert tokens[sign + 1 : 2 * sign + 1] == tokens[:sign]
        assert targets.count(IGNORE) == length - n_symbols
        assert tokens[2 * sign + 1 :] == [vocab - 2] * more


@settings(max_examples=30, deadline=None)
@given(
    st.integers(8, 60), st.integers(2, 4), st.integers(1, 5), st.integers(0, 2**32), st.booleans()
)
def test_a_look_up_is_answered_by_the_only_place_of_its_n_gram(n_symbols, gram, answer, seed, fix):
    n_symbols = n_symbols + gram + answer
    depth = (seed % 101) / 100 if fix else None
    items = lookup(
        4,
        vocab_size=30,
        n_symbols=n_symbols,
        length=n_symbols + 1 + gram + answer,
        rng=generator(seed, "x"),
        n_gram=gram,
        n_answer=answer,
        depth=depth,
    )
    for tokens, targets in zip(items.tokens.tolist(), items.targets.tolist(), strict=True):
        string, asked = tokens[:n_symbols], tokens[n_symbols + 1 : n_symbols + 1 + gram]
        found = [i for i in range(n_symbols) if string[i : i + gram] == asked]
        assert len(found) == 1
        at = found[0]
        if depth is not None:
            assert at == round(depth * (n_symbols - gram - answer))
        places = [i for i, target in enumerate(targets) if target != IGNORE]
        assert [targets[i] for i in places] == string[at + gram : at + gram + answer]
        assert places[0] == n_symbols + gram


def test_the_place_of_a_look_up_is_even():
    items = lookup(
        8000, vocab_size=30, n_symbols=12, length=16, rng=generator(0, "x"), n_gram=2, n_answer=1
    )
    grams = np.lib.stride_tricks.sliding_window_view(items.tokens[:, :12], 2, axis=1)
    at = np.argmax((grams == items.tokens[:, 13:15][:, None]).all(-1), axis=1)
    counts = np.bincount(at, minlength=10)
    assert len(counts) == 10
    assert abs(counts / 8000 - 0.1).max() < 0.02


def test_strings_in_which_no_n_gram_stands_once_are_refused():
    with pytest.raises(InputError, match="n_gram = 1: too few for strings of 60 out of 3 symbols"):
        lookup(9, vocab_size=5, n_symbols=60, length=63, rng=generator(0, "x"), n_gram=1)
