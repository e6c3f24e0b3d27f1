from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.data.interleave import Interleave
from braidlm.errors import InputError

weights = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(weights)
def test_every_row_of_each_source_comes_once_and_in_order(parts):
    found = [Interleave(parts).locate(row) for row in range(300)]
    for source in range(len(parts)):
        mine = [before for s, before in found if s == source]
        assert mine == list(range(len(mine)))


@given(weights)
def test_shares_are_exact_over_a_period_and_close_before(parts):
    total = sum(parts)
    order = [s for s, _ in map(Interleave(parts).locate, range(2 * total))]
    counts = Counter(order)
    assert all(counts[i] == 2 * part for i, part in enumerate(parts))
    for n in range(1, 2 * total):
        counts = Counter(order[:n])
        assert all(abs(counts[i] - n * p / total) <= len(parts) for i, p in enumerate(parts))


def test_decimal_weights_are_taken_at_their_word():
    mix = Interleave([0.7, 0.2, 0.1])
    assert Counter(mix.locate(r)[0] for r in range(10**9, 10**9 + 10)) == {0: 7, 1: 2, 2: 1}
    assert [Interleave([0.0, 1.0, 0.0]).locate(r) for r in range(3)] == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("bad", [[], [0.0], [1.0, -0.5]])
def test_weights_that_say_nothing(bad):
    with pytest.raises(InputError, match="weights"):
        Interleave(bad)
