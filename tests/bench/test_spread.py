"""The interval of a median, and what shares of two measurements inherit."""

import numpy as np
import pytest

from braidlm.bench.spread import quartiles, spread


def test_repeats_that_agree_leave_no_doubt():
    found = spread(lambda t: 8 / t, [2.0] * 5)
    assert found == (4.0, 4.0, 4.0, 0.0, 5)


def test_the_interval_is_that_of_the_function_of_the_median():
    found = spread(lambda t: 1 / t, [1.0, 2.0, 4.0])
    assert (found.value, found.low, found.high) == (0.5, 0.25, 1.0)
    assert found.n == 3


def test_a_ratio_carries_the_doubt_of_both():
    sure, unsure = [1.0] * 9, [1.0 + 0.1 * i for i in range(9)]
    one = spread(lambda a, b: a / b, sure, unsure)
    both = spread(lambda a, b: a / b, unsure, [2 * x for x in unsure])
    assert one.value == pytest.approx(1 / 1.4)
    assert both.value == pytest.approx(0.5)
    assert both.stderr / both.value > 1.2 * one.stderr / one.value


def test_it_holds_the_true_median_as_often_as_it_says():
    """200 experiments of 25 skewed repeats; the bootstrap of a median errs on neither side much."""
    draws = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        found = spread(lambda t: t, list(draws.exponential(size=25)))
        held += found.low <= np.log(2) <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_quartiles_are_those_of_the_samples():
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)
