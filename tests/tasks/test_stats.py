"""Standard errors against closed forms and against simulated repetition."""

import math

import numpy as np
import pytest

from braidlm.tasks.stats import (
    Estimate,
    bootstrap,
    by_cluster,
    drawn_anew,
    exponential,
    known,
    mean,
    mean_of,
    ratio,
    share,
)


def test_an_interval_over_clusters_drawn_anew():
    rng = np.random.default_rng(0)
    n, each = 200, 5
    of_cluster = rng.random(n) < 0.3  # all five questions about a document share its luck
    values = np.repeat(of_cluster, each).astype(float).tolist()
    clusters = [str(i // each) for i in range(n * each)]
    groups = ["a"] * (n * each)
    low, high = drawn_anew(values, groups, clusters)
    error = by_cluster(values, groups, clusters).stderr
    assert low < np.mean(values) < high
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.06)
    alone = drawn_anew(values, groups, [str(i) for i in range(n * each)])
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(each**0.5, rel=0.1)
    assert (low, high) == drawn_anew(values, groups, clusters)


def test_kinds_count_the_same_in_every_draw():
    values, groups = [0.0] * 90 + [1.0, 0.0] * 5, ["long"] * 90 + ["short"] * 10
    low, high = drawn_anew(values, groups, [str(i) for i in range(100)])
    assert 0.05 < low < 0.25 < high < 0.45  # the mean of 0 and 0.5, not 5 in 100


def test_agreement_and_one_cluster_are_honest():
    names = [str(i) for i in range(36)]
    assert drawn_anew([0.0] * 36, ["a"] * 36, names) == (0, pytest.approx(1 - 0.025 ** (1 / 36)))
    assert drawn_anew([1.0] * 36, ["a"] * 36, names)[1] == 1
    assert all(math.isnan(end) for end in drawn_anew([0.5, 1.0], ["a"] * 2, ["x"] * 2))


def test_mean_is_the_textbook_one():
    found = mean([1.0, 2.0, 4.0, 9.0])
    assert found.value == 4.0
    assert found.stderr == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3 / 4))
    assert found.n == 4


def test_ratio_by_hand():
    found = ratio([2.0, 6.0], [1.0, 3.0])
    assert found == Estimate(2.0, 0.0, 2)
    found = ratio([2.0, 3.0], [1.0, 3.0])
    # r = 5/4, residuals 3/4 and -3/4, variance 2/1 * (9/16 + 9/16) / 16
    assert found.value == 1.25
    assert found.stderr == pytest.approx(math.sqrt(2 * (9 / 16 + 9 / 16) / 16))


def test_one_cluster_has_no_error_and_none_has_no_value():
    assert ratio([3.0], [2.0]).value == 1.5
    assert math.isnan(ratio([3.0], [2.0]).stderr)
    assert math.isnan(ratio([], []).value)
    assert math.isnan(ratio([0.0], [0.0]).value)
    assert Estimate(1.5, math.nan, 1).as_metric("nats") == {
        "value": 1.5,
        "stderr": None,
        "n": 1,
        "unit": "nats",
    }
    assert known(math.inf) is None


def _clusters(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Totals and sizes of clusters whose members share a common deviation."""
    sizes = rng.integers(1, 40, size=n)
    common = rng.normal(size=n)
    own = np.array([rng.normal(size=size).sum() for size in sizes])
    return sizes * (3.0 + common) + own, sizes.astype(float)


def test_ratio_error_is_the_scatter_of_repeated_samples():
    rng = np.random.default_rng(0)
    found = [ratio(*_clusters(rng, 150)) for _ in range(400)]
    scatter = np.std([f.value for f in found])
    assert np.mean([f.stderr for f in found]) == pytest.approx(scatter, rel=0.1)
    # Tokens taken for independent would claim an error several times too small.
    x = _clusters(rng, 150)[1]
    assert scatter > 3 * math.sqrt(2 / x.sum())
    inside = [abs(f.value - 3.0) < 1.96 * f.stderr for f in found]
    assert 0.91 < np.mean(inside) < 0.985


def test_bootstrap_agrees_with_the_delta_method():
    y, x = _clusters(np.random.default_rng(1), 120)
    by_draws = bootstrap(lambda i: y[i].sum() / x[i].sum(), 120, n_resamples=2000)
    assert by_draws == pytest.approx(ratio(y, x).stderr, rel=0.1)
    assert by_draws == bootstrap(lambda i: y[i].sum() / x[i].sum(), 120, n_resamples=2000)
    assert by_draws != bootstrap(lambda i: y[i].sum() / x[i].sum(), 120, n_resamples=2000, seed=1)
    assert math.isnan(bootstrap(lambda i: 0.0, 1))


def test_exponential_scales_the_error():
    found = exponential(Estimate(2.0, 0.1, 9))
    assert found == Estimate(math.exp(2), math.exp(2) * 0.1, 9)
    assert exponential(Estimate(1e4, 0.1, 9)).value == math.inf


def test_mean_of_independent_estimates():
    found = mean_of([Estimate(1.0, 0.3, 10), Estimate(2.0, 0.4, 30)])
    assert found.value == 1.5
    assert found.stderr == pytest.approx(0.25)
    assert found.n == 40


def test_a_share_of_all_or_nothing_is_not_certain():
    sure = share(Estimate(1.0, 0.0, 48))
    n = 48
    variance = (n + 1) / ((n + 2) ** 2 * (n + 3))
    assert sure.stderr == pytest.approx(math.sqrt(variance))
    assert share(Estimate(0.0, 0.0, 48)).stderr == sure.stderr
    assert share(Estimate(0.25, 0.0, 48)).stderr == 0.0
    assert share(Estimate(0.9, 0.1, 48)).stderr == 0.1


def test_clusters_in_one_group_are_the_ratio():
    values, clusters = [1.0, 0.0, 1.0, 1.0, 0.5, 0.0], list("aabccc")
    sums, sizes = [1.0, 1.0, 1.5], [2, 1, 3]
    assert by_cluster(values, [""] * 6, clusters) == pytest.approx(ratio(sums, sizes))
    alone = by_cluster(values, [""] * 6, list("abcdef"))
    assert alone == pytest.approx(mean(values))


def test_a_cluster_may_reach_over_groups():
    """Draws of documents asked at two lengths, one of which lacks some: the error is theirs."""
    rng = np.random.default_rng(0)
    found, claimed = [], []
    for _ in range(2000):
        known = rng.normal(size=30)
        has_long = rng.random(30) < 0.6
        values = [*(known + rng.normal(size=30) / 2), *(known + 1)[has_long]]
        groups = ["short"] * 30 + ["long"] * int(has_long.sum())
        clusters = [*map(str, range(30)), *map(str, np.flatnonzero(has_long))]
        estimate = by_cluster(values, groups, clusters)
        found.append(estimate.value)
        claimed.append(estimate.stderr)
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)
    assert np.mean(claimed) == pytest.approx(np.std(found), rel=0.06)
    assert estimate.n == 30
    assert math.isnan(by_cluster([1, 2], ["a", "b"], ["x", "x"]).stderr)
