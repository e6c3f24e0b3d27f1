import numpy as np
import pytest

from braidlm.data.mqar import _skip_used, _slots, counterfactual, generate_mqar
from braidlm.data.packing import IGNORE
from braidlm.data.seeding import generator
from braidlm.data.symbols import distinct
from braidlm.errors import InputError

CASES = [
    {"vocab_size": 64, "n_pairs": 8, "length": 64},
    {"vocab_size": 8192, "n_pairs": 16, "length": 128, "token_offset": 300},
    {"vocab_size": 20, "n_pairs": 9, "length": 54, "num_passes": 2, "alpha": 1.0},
    {"vocab_size": 33, "n_pairs": 1, "length": 7, "random_non_queries": False},
    {"vocab_size": 8, "n_pairs": 3, "length": 12},
]
VARIANTS = [
    {"vocab_size": 64, "n_pairs": 8, "length": 64, "n_updates": 4},
    {"vocab_size": 20, "n_pairs": 5, "length": 40, "n_updates": 5, "num_passes": 2},
    {"vocab_size": 64, "n_pairs": 6, "length": 64, "num_passes": 3, "shuffle_passes": True},
    {"vocab_size": 30, "n_pairs": 4, "length": 30, "key_parts": 2, "random_non_queries": False},
    {"vocab_size": 60, "n_pairs": 9, "length": 99, "key_parts": 2, "n_updates": 3},
]


def make(case, n=50, seed=0):
    return generate_mqar(n, rng=generator(seed, "test"), **case)


def read_answers(tokens, targets, context):
    """A reader that sees the prompt alone: look the key up in the list, at each query."""
    answers = {}
    for at in np.flatnonzero(targets != IGNORE).tolist():
        firsts = [i for i in range(0, context, 2) if tokens[i] == tokens[at]]
        answers[at] = {int(tokens[i + 1]) for i in firsts}
    return answers


@pytest.mark.parametrize("case", CASES)
def test_every_answer_follows_from_the_prompt(case):
    items = make(case)
    passes = case.get("num_passes", 1)
    context = 2 * case["n_pairs"] * passes
    for i in range(50):
        tokens, targets = items.tokens[i], items.targets[i]
        answers = read_answers(tokens, targets, context)
        assert len(answers) == case["n_pairs"]
        assert all(answer == {targets[at]} for at, answer in answers.items())
        assert all(at >= context and (at - context) % 2 == 0 for at in answers)


@pytest.mark.parametrize("case", CASES)
def test_the_metadata_points_at_the_right_places(case):
    items = make(case)
    rows = np.arange(50)[:, None]
    keys = items.tokens[rows, items.query_positions]
    for p in range(case.get("num_passes", 1)):
        np.testing.assert_array_equal(items.tokens[rows, items.pair_positions[..., p]], keys)
        values = items.tokens[rows, items.pair_positions[..., p] + 1]
        np.testing.assert_array_equal(values, items.answers)
    np.testing.assert_array_equal(items.targets[rows, items.query_positions], items.answers)


@pytest.mark.parametrize("case", CASES)
def test_symbols_are_keys_and_values_without_repeats(case):
    items = make(case)
    offset, half = case.get("token_offset", 0), case["vocab_size"] // 2
    keys = items.tokens[np.arange(50)[:, None], items.query_positions] - offset
    values = items.answers - offset
    assert keys.min() >= 1
    assert keys.max() < half <= values.min()
    assert values.max() < case["vocab_size"]
    for table in (keys, values):
        assert all(len(set(row)) == len(row) for row in table.tolist())
    context = 2 * case["n_pairs"] * case.get("num_passes", 1)
    filler = np.ones_like(items.tokens, dtype=bool)
    filler[:, :context] = False
    np.put_along_axis(filler, items.query_positions, False, axis=1)
    drawn = items.tokens[filler] - offset
    if case.get("random_non_queries", True):
        assert drawn.min() >= 0
        assert drawn.max() < case["vocab_size"]
        assert len(drawn) < 20 or len(set(drawn.tolist())) > 3
    else:
        assert (drawn == 0).all()


@pytest.mark.parametrize("case", CASES)
def test_a_counterfactual_changes_one_value_and_nothing_else(case):
    items = make(case)
    pairs = np.arange(50) % case["n_pairs"]
    changed = counterfactual(items, pairs, generator(1, "test"))
    first, end = items.values
    for i, pair in enumerate(pairs.tolist()):
        places = sorted((items.pair_positions[i, pair] + 1).tolist())
        assert np.flatnonzero(changed.tokens[i] != items.tokens[i]).tolist() == places
        query = items.query_positions[i, pair]
        assert np.flatnonzero(changed.targets[i] != items.targets[i]).tolist() == [query]
        new = changed.answers[i, pair]
        assert first <= new < end
        assert new not in items.answers[i]
        assert changed.targets[i, query] == new
        assert (changed.tokens[i, places] == new).all()
        assert np.flatnonzero(changed.answers[i] != items.answers[i]).tolist() == [pair]


def test_skip_used_counts_the_free_numbers():
    used = np.array([[0, 3, 4], [1, 2, 6]])
    free = [[1, 2, 5, 6, 7], [0, 3, 4, 5, 7]]
    for rank in range(5):
        got = _skip_used(np.array([rank, rank]), used)
        assert got.tolist() == [free[0][rank], free[1][rank]]


@pytest.mark.parametrize("total", [4, 100])
def test_distinct_symbols_are_uniform_in_every_place(total):
    # 4 takes the sorting path, 100 the redrawing one, with 3 places each.
    drawn = distinct(generator(0, "distinct"), 40_000, 3, total)
    assert all(len(set(row)) == 3 for row in drawn[:500].tolist())
    for column in drawn.T:
        counts = np.bincount(column, minlength=total)
        expected = 40_000 / total
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < total + 5 * np.sqrt(2 * total)
    together = np.bincount(drawn[:, 0] * total + drawn[:, 1], minlength=total**2)
    off = ~np.eye(total, dtype=bool).ravel()
    expected = 40_000 / off.sum()
    chi2 = ((together[off] - expected) ** 2 / expected).sum()
    assert chi2 < off.sum() + 5 * np.sqrt(2 * off.sum())


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_slots_follow_the_power_law_without_replacement(alpha):
    n, total = 60_000, 6
    slots = _slots(generator(0, "slots"), n, 2, total, alpha)
    p = np.arange(1, total + 1) ** (alpha - 1.0)
    p /= p.sum()
    table = np.zeros((total, total))
    np.add.at(table, (slots[:, 0], slots[:, 1]), 1)
    expected = n * p[:, None] * p[None, :] / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    assert np.diag(table).sum() == 0
    off = expected > 0
    chi2 = ((table[off] - expected[off]) ** 2 / expected[off]).sum()
    assert chi2 < off.sum() + 5 * np.sqrt(2 * off.sum())


def test_queries_stand_where_one_by_one_choice_puts_them():
    """Zoology draws each item's slots by a weighted choice without replacement, pair by pair."""
    n, n_pairs, length, alpha = 6000, 4, 48, 0.01
    items = generate_mqar(
        n, vocab_size=64, n_pairs=n_pairs, length=length, rng=generator(1, "x"), alpha=alpha
    )
    slots = (items.query_positions - 2 * n_pairs) // 2
    total = (length - 2 * n_pairs) // 2
    weights = alpha * np.arange(1, total + 1) ** (alpha - 1)
    weights /= weights.sum()
    rng = generator(2, "naive")
    naive = np.array([rng.choice(total, n_pairs, replace=False, p=weights) for _ in range(n)])
    for pair in range(n_pairs):
        ours, theirs = (np.bincount(x[:, pair], minlength=total) for x in (slots, naive))
        chi2 = ((ours - theirs) ** 2 / (ours + theirs)).sum()
        assert chi2 < total + 5 * np.sqrt(2 * total)
    # The first pair of the list is drawn first, and so it is asked soonest.
    assert slots[:, 0].mean() < slots[:, -1].mean() - 1


def test_what_is_not_asked_is_uniform_over_all_symbols():
    items = generate_mqar(3000, vocab_size=40, n_pairs=4, length=48, rng=generator(3, "x"))
    is_noise = np.ones(items.tokens.shape, dtype=bool)
    is_noise[:, :8] = False
    np.put_along_axis(is_noise, items.query_positions, False, axis=1)
    cases = [
        (items.tokens[is_noise], range(40)),
        (items.tokens[:, 0:8:2], range(1, 20)),
        (items.tokens[:, 1:8:2], range(20, 40)),
    ]
    for drawn, symbols in cases:
        counts, expected = np.bincount(drawn.ravel(), minlength=40), drawn.size / len(symbols)
        assert counts.sum() == counts[list(symbols)].sum()
        chi2 = ((counts[list(symbols)] - expected) ** 2 / expected).sum()
        assert chi2 < len(symbols) + 5 * np.sqrt(2 * len(symbols))


def test_seeds_reproduce_and_differ():
    a, b, c = make(CASES[0]), make(CASES[0]), make(CASES[0], seed=1)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.targets, b.targets)
    assert (a.tokens != c.tokens).mean() > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 31}, "length = 31: must be at least 32 for 8 pairs"),
        ({"num_passes": 4}, "length = 64: must be at least 80"),
        ({"n_pairs": 0}, "n_pairs = 0: must be between 1 and 31"),
        (
            {"n_pairs": 32, "length": 500},
            "n_pairs = 32: must be between 1 and 31 for vocab_size = 64",
        ),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        make(CASES[0] | change)


def read_last(tokens, width, context):
    """The last value that each key of the list has, and the ones before it, from the prompt."""
    found = {}
    for at in range(0, context, width):
        block = tokens[at : at + width].tolist()
        found.setdefault(tuple(block[:-1]), []).append(block[-1])
    return found


@pytest.mark.parametrize("case", VARIANTS)
def test_every_answer_of_a_variant_follows_from_the_prompt(case):
    items = make(case)
    parts, updates = case.get("key_parts", 1), case.get("n_updates", 0)
    width, passes = parts + 1, case.get("num_passes", 1)
    context = width * (case["n_pairs"] * passes + updates)
    for i in range(50):
        tokens, targets = items.tokens[i], items.targets[i]
        said = read_last(tokens, width, context)
        assert len(said) == case["n_pairs"]
        queries = np.flatnonzero(targets != IGNORE).tolist()
        assert len(queries) == case["n_pairs"]
        for at in queries:
            assert (at - parts + 1 - context) % width == 0
            assert said[tuple(tokens[at - parts + 1 : at + 1].tolist())][-1] == targets[at]
        changed = [values for values in said.values() if len(set(values)) == 2]
        assert len(changed) == updates
        assert all(values == [values[0]] * passes + [values[-1]] for values in changed)
        kept = [values for values in said.values() if len(set(values)) == 1]
        assert all(len(values) == passes for values in kept)


@pytest.mark.parametrize("case", VARIANTS)
def test_the_metadata_of_a_variant_points_at_the_right_value(case):
    items = make(case)
    rows = np.arange(50)[:, None]
    np.testing.assert_array_equal(items.targets[rows, items.query_positions], items.answers)
    for p in range(case.get("num_passes", 1)):
        at = items.pair_positions[..., p]
        np.testing.assert_array_equal(items.tokens[rows, at + 1], items.answers)
        keys = items.tokens[rows, items.query_positions]
        np.testing.assert_array_equal(items.tokens[rows, at], keys)
    n_old = (items.old_answers >= 0).sum(1)
    assert (n_old == case.get("n_updates", 0)).all()
    assert (items.old_answers != items.answers).all()


def test_neither_part_of_a_composed_key_tells_its_value():
    items = make({"vocab_size": 60, "n_pairs": 9, "length": 60, "key_parts": 2})
    blocks = items.tokens[:, :27].reshape(50, 9, 3)
    for first, second, values in blocks.transpose(0, 2, 1).tolist():
        assert len(set(zip(first, second, strict=True))) == len(set(values)) == 9
        for part, low, high in ((first, 1, 20), (second, 20, 40)):
            assert sorted(part.count(symbol) for symbol in set(part)) == [3, 3, 3]
            assert low <= min(part) <= max(part) < high
        assert min(values) >= 40
    orders = {tuple(np.argsort(row).tolist()) for row in blocks[:, :, 0]}
    assert len(orders) > 40


def test_updates_fall_evenly_on_the_pairs():
    items = make({"vocab_size": 64, "n_pairs": 8, "length": 64, "n_updates": 2}, n=8000)
    counts = (items.old_answers >= 0).sum(0)
    assert counts.sum() == 16_000
    assert abs(counts - 2000).max() < 5 * np.sqrt(8000 * 0.25 * 0.75)


def test_a_counterfactual_of_an_updated_pair_changes_its_last_value_alone():
    items = make({"vocab_size": 32, "n_pairs": 6, "length": 40, "n_updates": 6})
    changed = counterfactual(items, np.zeros(50, dtype=int), generator(1, "test"))
    for i in range(50):
        places = np.flatnonzero(changed.tokens[i] != items.tokens[i]).tolist()
        assert places == [items.pair_positions[i, 0, 0] + 1]
        assert places[0] >= 12
        new = changed.answers[i, 0]
        assert new not in items.answers[i]
        assert new not in items.old_answers[i]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_parts": 2, "n_pairs": 8}, "n_pairs = 8: must be a square number"),
        ({"n_updates": 9}, "n_updates = 9: must be at most n_pairs = 8"),
        ({"n_updates": 8, "length": 47}, "length = 47: must be at least 48"),
        (
            {"n_updates": 8, "vocab_size": 20},
            "n_pairs = 8: must be between 1 and 2 for",
        ),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(change, message):
    with pytest.raises(InputError, match=message.replace("(", ".")):
        make({"vocab_size": 64, "n_pairs": 8, "length": 64} | change)
