import math

import pytest

from braidlm.report.stats import Estimate, better, difference, estimate, number, seed_stderr, t95


def test_estimate_keeps_the_two_errors_apart():
    found = estimate([(1.0, 0.3, 100), (3.0, 0.4, 100)])
    assert found is not None
    assert found.mean == 2.0
    assert found.seed_stderr == pytest.approx(1.0)  # deviation sqrt(2) / sqrt(2 seeds)
    assert found.item_stderr == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert (found.n_seeds, found.n_items, found.values) == (2, 100, (1.0, 3.0))
    assert found.stderr == pytest.approx(math.hypot(1.0, math.sqrt(0.125)))


def test_one_seed_has_no_seed_error():
    found = estimate([(0.5, 0.1, 10)])
    assert found is not None
    assert found.seed_stderr is None
    assert found.stderr == 0.1


def test_values_that_are_not_finite_are_left_out():
    found = estimate([(math.nan, 0.1, 10), (None, None, None), (2.0, None, None)])
    assert found is not None
    assert (found.mean, found.n_seeds, found.item_stderr) == (2.0, 1, None)
    assert estimate([(math.inf, 0.1, 1)]) is None


@pytest.mark.parametrize("value", [None, "1", True, math.nan, -math.inf, [1]])
def test_number_refuses_what_is_no_finite_number(value):
    assert number(value) is None


def test_seed_stderr_of_three():
    assert seed_stderr([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))


@pytest.mark.parametrize(
    ("degrees", "point"),
    [(1, 12.706), (1.5, 6.017), (2, 4.303), (2.5, 3.575), (29.5, 2.044), (40, 2.021), (120, 1.980)],
)
def test_t_is_exact_or_a_little_too_wide(degrees, point):
    assert point - 0.001 <= t95(degrees) <= point * 1.2


def test_t_has_its_limits():
    assert t95(0.5) == 12.706
    assert t95(math.inf) == 1.96


def _arm(mean, seed, item, n=2):
    return Estimate(mean, seed, item, n, 100, (mean,) * n)


def test_welch_interval_with_two_seeds_a_side():
    gap = difference(_arm(1.0, 0.1, None), _arm(0.5, 0.1, None))
    assert gap.value == 0.5
    # equal variances: 2 degrees of freedom
    assert gap.half_width == pytest.approx(4.303 * math.sqrt(0.02))
    assert gap.is_within_error


def test_item_errors_alone_use_the_normal_point():
    gap = difference(_arm(0.9, None, 0.03, 1), _arm(0.8, None, 0.04, 1))
    assert gap.half_width == pytest.approx(1.96 * 0.05)
    assert not gap.is_within_error


def test_without_any_error_nothing_is_told_apart():
    assert difference(_arm(1.0, None, None, 1), _arm(0.0, None, None, 1)).is_within_error


@pytest.mark.parametrize(
    ("metric", "good"),
    [
        *(("accuracy", "higher"), ("bits_per_byte", "lower"), ("other_entry", "lower")),
        *(("nearer_other", "lower"), ("graded", "higher"), ("answer_nll", "lower")),
    ],
)
def test_which_values_are_better(metric, good):
    assert better(metric) == good
