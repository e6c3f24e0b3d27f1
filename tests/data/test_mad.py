import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.data import mad
from braidlm.data.mad_fuzzy import fuzzy_in_context_recall
from braidlm.data.packing import IGNORE
from braidlm.data.seeding import generator
from braidlm.data.symbols import draw_item


def rng(*keys):
    return generator(0, "mad", *keys)


def kinds(items, row):
    """The letter of every token of an item."""
    letters = np.full(items.tokens.max() + 1, "?")
    for letter, first, end in items.alphabets:
        letters[first:end] = letter
    return letters[items.tokens[row]]


def read_pairs(items, row):
    """An oracle: (key, value, where the value begins) of an item, read from its tokens alone."""
    tokens, letters = items.tokens[row].tolist(), kinds(items, row)
    pairs, at = [], 0
    while at < len(tokens):
        if letters[at] != "k":
            at += 1
            continue
        start = at
        while letters[at] == "k":
            at += 1
        middle = at
        while at < len(tokens) and letters[at] == "v":
            at += 1
        pairs.append((tuple(tokens[start:middle]), tuple(tokens[middle:at]), middle))
    return pairs


def check_recall(items, row):
    """Every value whose key stood before is asked, no other, and is the one that stood there."""
    known, expected = {}, {}
    for key, value, at in read_pairs(items, row):
        if key in known:
            assert known[key] == value
            expected |= {at - 1 + i: symbol for i, symbol in enumerate(value)}
        known[key] = value
    places = np.flatnonzero(items.targets[row] != IGNORE)
    assert {int(p): int(items.targets[row, p]) for p in places} == expected
    assert expected
    np.testing.assert_array_equal(items.classes[row] >= 0, items.targets[row] != IGNORE)
    return expected


@settings(max_examples=40, deadline=None)
@given(
    st.integers(4, 40),
    st.integers(2, 40),
    st.integers(0, 9),
    st.floats(0, 0.9),
    st.integers(0, 2**32),
)
def test_in_context_recall_follows_from_its_prompt(symbols, pairs, noise, share, seed):
    share = share if noise else 0.0
    items = mad.in_context_recall(
        8,
        vocab_size=symbols + noise,
        length=2 * pairs,
        rng=generator(seed, "x"),
        noise_vocab_size=noise,
        frac_noise=share,
    )
    assert items.tokens.shape == (8, 2 * pairs)
    assert items.tokens.max() < symbols + noise
    for row in range(8):
        expected = check_recall(items, row)
        assert 2 * pairs - 2 in expected
        assert items.classes[row, 2 * pairs - 2] == 1


def test_in_context_recall_has_the_published_distribution():
    items = mad.in_context_recall(4000, vocab_size=16, length=128, rng=rng())
    keys, values = items.tokens[:, 0:126:2], items.tokens[:, 1:126:2]
    counts = np.bincount(keys.ravel(), minlength=8)
    assert len(counts) == 8
    assert abs(counts / keys.size - 1 / 8).max() < 0.003
    assert (values.min(), values.max()) == (8, 15)
    # 63 keys of 8 drawn with replacement: nearly all of them are asked again.
    assert abs((items.targets != IGNORE).sum(1).mean() - (64 - 8 * (1 - (7 / 8) ** 63))) < 0.05
    one_value = [len(set(values[i][keys[i] == 0].tolist())) for i in range(100)]
    assert set(one_value) == {1}


def test_noise_has_its_share_and_its_symbols():
    items = mad.in_context_recall(
        3000, vocab_size=32, length=128, rng=rng(), noise_vocab_size=16, frac_noise=0.2
    )
    first = items.tokens[:, 0:126:2]
    assert abs((first >= 16).mean() - 0.2 * 62 / 63) < 0.005
    np.testing.assert_array_equal(first >= 16, items.tokens[:, 1:126:2] >= 16)
    assert items.tokens.max() == 31


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize(("vocab", "length"), [(16, 128), (9, 40), (128, 60)])
def test_fuzzy_recall_follows_from_its_prompt(vocab, length, is_training):
    items = fuzzy_in_context_recall(
        300, vocab_size=vocab, length=length, rng=rng(), is_training=is_training
    )
    for row in range(300):
        check_recall(items, row)
        pairs = read_pairs(items, row)
        assert pairs[-1][0] in [key for key, _, _ in pairs[:-1]]
        sizes = {len(key) for key, _, _ in pairs}
        assert sizes <= {1, 2, 3} if is_training else sizes == {3}
        assert all(len(set(key)) == len(key) for key, _, _ in pairs)
        assert all(1 <= len(v) <= 3 and len(set(v)) == len(v) for _, v, _ in pairs)
        n_blank = (items.tokens[row] == vocab - 1).sum()
        assert (items.tokens[row, :n_blank] == vocab - 1).all()
        assert n_blank < 12


def test_the_probe_of_fuzzy_recall_stands_anywhere():
    items = fuzzy_in_context_recall(4000, vocab_size=128, length=120, rng=rng())
    places = []
    for row in range(4000):
        pairs = read_pairs(items, row)
        keys = [key for key, _, _ in pairs]
        places.append(keys.index(keys[-1]) / (len(keys) - 2))
    counts = np.histogram(places, bins=4, range=(0, 1))[0]
    assert abs(counts / 4000 - 0.25).max() < 0.06
    sizes = np.array([len(v) for row in range(200) for _, v, _ in read_pairs(items, row)[:-1]])
    assert abs(np.bincount(sizes)[1:] / len(sizes) - 1 / 3).max() < 0.03


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 20), st.integers(1, 20), st.integers(2, 60), st.integers(0, 2**32))
def test_selective_copying_asks_for_the_symbols_in_order(vocab, n_copy, more, seed):
    length = 2 * n_copy + more
    items = mad.selective_copying(
        6, vocab_size=vocab, length=length, rng=generator(seed, "x"), n_copy=n_copy
    )
    for tokens, targets in zip(items.tokens, items.targets, strict=True):
        begin = length - n_copy - 1
        assert tokens[begin] == vocab - 1
        assert (tokens[begin + 1 :] == vocab - 2).all()
        symbols = tokens[:begin][tokens[:begin] < vocab - 2]
        assert targets[begin + 1 :].tolist() == symbols.tolist()
        assert (targets[: begin + 1] == IGNORE).all()


def test_selective_copying_gaps_are_multinomial():
    items = mad.selective_copying(20_000, vocab_size=16, length=64, rng=rng(), n_copy=4)
    before = items.tokens[:, :59]
    where = np.argwhere(before < 14)[:, 1].reshape(-1, 4)
    gaps = np.diff(np.c_[np.full(len(where), -1), where], axis=1) - 1
    assert abs(gaps.mean(0) - 55 / 4).max() < 0.15
    assert abs(gaps.var(0) - 55 * 3 / 16).max() < 0.5
    assert (where[:, -1] == 58).all()


def test_compression_asks_for_every_symbol():
    items = mad.compression(500, vocab_size=16, length=62, rng=rng())
    assert (items.tokens[:, 31:] == 15).all()
    np.testing.assert_array_equal(items.targets[:, 31:], items.tokens[:, :31])
    assert (items.targets[:, :31] == IGNORE).all()
    assert set(items.tokens[:, :31].ravel().tolist()) == set(range(15))


def test_memorization_is_one_map_for_all_items_and_another_for_another_seed():
    def read(seed, key):
        items = mad.memorization(64, vocab_size=256, length=32, rng=rng(key), map_seed=seed)
        assert (items.tokens[:, 1::2] == 255).all()
        pairs = set(zip(items.tokens[:, ::2].ravel(), items.targets[:, 1::2].ravel(), strict=True))
        return dict(pairs), len(pairs)

    (first, n), (again, _), (other, _) = read(1, "a"), read(1, "b"), read(2, "a")
    assert n == len(first) == len(set(first.values()))
    assert all(again[key] == value for key, value in first.items() if key in again)
    assert max(first) < 127 <= min(first.values())
    assert sum(other[key] == value for key, value in first.items() if key in other) < 10


def test_items_are_the_same_for_a_seed_and_move_by_an_offset():
    one, two = (mad.in_context_recall(5, vocab_size=8, length=16, rng=rng()) for _ in range(2))
    np.testing.assert_array_equal(one.tokens, two.tokens)
    moved = one.shifted(100)
    np.testing.assert_array_equal(moved.tokens, one.tokens + 100)
    assert set(moved.targets.ravel().tolist()) - {IGNORE} <= set(range(104, 108))
    drawn = [draw_item(i.tokens[0], i.targets[0], i.alphabets) for i in (one, moved)]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith("k")


def test_every_token_learnt_is_the_next_one_and_agrees_with_the_answers():
    items = mad.in_context_recall(50, vocab_size=8, length=16, rng=rng())
    learnt = items.with_every_token_learnt()
    is_asked = items.targets != IGNORE
    assert items.is_next_token
    np.testing.assert_array_equal(learnt.targets[is_asked], items.targets[is_asked])
    assert (learnt.targets[:, -1] == IGNORE).all()
    assert (learnt.targets[:, :-1] != IGNORE).all()
