"""Differences of arms that share seeds and items, against sums by hand and repeated experiments."""

import math

import numpy as np
import pytest

from braidlm.report.contrast import bootstrap, contrast
from braidlm.report.pairs import Scores, pair
from braidlm.report.stats import t95
from braidlm.report.student import holm, two_sided


def arm(values: np.ndarray, groups: str = "", clusters: str = "") -> dict[int, Scores]:
    """One seed a row, one item a column."""
    ids = [str(i) for i in range(values.shape[1])]
    of = dict(zip(ids, groups or "x" * len(ids), strict=True))
    together = dict(zip(ids, clusters, strict=True)) if clusters else {}
    return {
        seed: Scores(dict(zip(ids, map(float, row), strict=True)), of, together)
        for seed, row in enumerate(values)
    }


def test_two_way_variance_by_hand():
    """Two seeds, four items."""
    gaps = np.array([[1.0, 0, 0, 1], [0.5, 0.5, 0, 0]])
    base = np.arange(8.0).reshape(2, 4)
    found = contrast(arm(base + gaps), arm(base))
    assert found is not None
    n_seeds, n = gaps.shape
    items = gaps.mean(0).var(ddof=1) / n
    seeds = gaps.mean(1).var(ddof=1) / n_seeds
    both = sum((g - gaps.mean(0)).var(ddof=1) / n for g in gaps) / (n_seeds - 1) / n_seeds
    variance = max(items + seeds - both, items, seeds)
    degrees = (items + seeds) ** 2 / (items**2 / (n - 1) + seeds**2 / (n_seeds - 1))
    assert found.value == pytest.approx(gaps.mean())
    assert found.item_stderr == pytest.approx(math.sqrt(items))
    assert found.seed_stderr == pytest.approx(math.sqrt(seeds))
    assert found.degrees == pytest.approx(degrees)
    assert found.half_width == pytest.approx(t95(degrees) * math.sqrt(variance))
    assert found.by_seed == pytest.approx((0.5, 0.25))
    assert found.p == pytest.approx(two_sided(found.value / math.sqrt(variance), degrees))


def test_what_a_seed_does_to_both_arms_cancels():
    """Bases differ by 5, the treatment adds 0.1: unpaired seeds would see nothing."""
    random = np.random.default_rng(1)
    luck = random.normal(0, 5, (4, 1))
    hard = random.normal(0, 2, (1, 40))
    noise = random.normal(0, 0.02, (2, 4, 40))
    a, b = arm(luck + hard + 0.1 + noise[0]), arm(luck + hard + noise[1])
    found, apart = contrast(a, b), pair(list(a.values()), list(b.values()))
    assert found is not None
    assert apart is not None
    assert abs(found.value - 0.1) < found.half_width < 0.02
    assert found.p < 1e-3
    assert apart.difference.half_width is not None
    assert apart.difference.half_width > 3


def test_one_seed_speaks_of_items_alone_and_other_seeds_are_left_out():
    values = np.array([[1.0, 0, 1, 1], [9.0, 9, 9, 9]])
    a, b = arm(values), arm(np.zeros((1, 4)))
    found = contrast(a, b)
    assert found is not None
    assert (found.seeds, found.seed_stderr, found.degrees) == ((0,), None, 3)
    assert found.value == 0.75
    assert contrast({}, b) is None
    assert contrast(a, arm(np.zeros((1, 5)))) is None


@pytest.mark.parametrize("clusters", ["", "aabbccddeeffgghhiijjkkll"])
def test_the_t_interval_holds_the_truth_as_often_as_it_says(clusters: str):
    """Seeds, items and their noise are drawn anew 200 times; three seeds."""
    random = np.random.default_rng(2)
    misses = 0
    for _ in range(200):
        item = random.normal(0, 1, 24)
        if clusters:
            item = np.repeat(item[::2], 2)
        gaps = random.normal(0, 0.3, (3, 1)) + item + random.normal(0, 0.5, (3, 24))
        found = contrast(arm(gaps, clusters=clusters), arm(np.zeros((3, 24)), clusters=clusters))
        assert found is not None
        misses += abs(found.value) > found.half_width
    assert 2 <= misses <= 19  # 10 are expected


def test_the_bootstrap_finds_the_error_of_many_seeds_and_items():
    random = np.random.default_rng(3)
    gaps = random.normal(0, 0.2, (40, 1)) + random.normal(0, 1, (1, 300))
    found = contrast(arm(gaps, groups="ab" * 150), arm(np.zeros(gaps.shape), groups="ab" * 150))
    assert found is not None
    error = math.hypot(found.item_stderr, found.seed_stderr or 0)
    assert (found.high - found.low) / 3.92 == pytest.approx(error, rel=0.08)
    assert found.low < found.value < found.high


def test_the_bootstrap_draws_within_strata_and_alike_each_time():
    """Two strata whose items do not vary have no error, however far apart they lie."""
    values = np.array([[1.0] * 4 + [0.0] * 4])
    found = contrast(arm(values, groups="aaaabbbb"), arm(np.zeros((1, 8)), groups="aaaabbbb"))
    assert found is not None
    assert (found.low, found.high) == (0.5, 0.5)
    rows = np.random.default_rng(4).normal(size=(3, 9))
    again = [bootstrap(rows.mean(1), rows / 9, np.zeros(9, int)) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    [(12.706, 1, 0.05), (2.571, 5, 0.05), (2.750, 30, 0.01), (1.960, math.inf, 0.05), (0, 3, 1)],
)
def test_p_values_are_those_of_the_tables(t: float, degrees: float, p: float):
    assert two_sided(t, degrees) == pytest.approx(p, rel=2e-3)
    assert two_sided(-t, degrees) == two_sided(t, degrees)


def test_one_degree_of_freedom_is_cauchys_and_two_have_a_closed_form():
    for t in (0.1, 1.0, 3.0, 50.0):
        assert two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-9)
        assert two_sided(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
