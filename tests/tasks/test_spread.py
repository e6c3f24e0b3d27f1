"""The spread over templates against draws whose truth is known."""

import math

import numpy as np
import pytest

from braidlm.tasks.spread import spread
from braidlm.tasks.stats import mean


def _drawn(rng, n: int, truth: list[float], shared: float) -> tuple:
    """Scores of n items under every template: an item's own part, a template's, and noise."""
    own = shared * rng.standard_normal(n)
    scores = [t + own + rng.standard_normal(n) for t in truth]
    names = [str(t) for t in range(len(truth)) for _ in range(n)]
    return np.concatenate(scores).tolist(), names, names, [str(i) for i in range(n)] * len(truth)


def test_a_spread_is_that_of_the_means_and_easy_items_are_no_part_of_its_noise():
    rng = np.random.default_rng(0)
    columns = _drawn(rng, 400, [0.0, 0.2, 0.7, 0.3], shared=5.0)
    found = spread(*columns)
    means = [mean(columns[0][400 * t : 400 * (t + 1)]).value for t in range(4)]
    assert found.spread == pytest.approx(np.std(means, ddof=1))
    assert (found.lowest, found.highest) == pytest.approx((min(means), max(means)))
    assert found.noise == pytest.approx(1 / math.sqrt(400), rel=0.1)  # not 5 / sqrt(400)
    assert found.beyond_noise == pytest.approx(math.sqrt(found.spread**2 - found.noise**2))
    assert 0.5 < found.stderr / found.noise < 1.5


@pytest.mark.parametrize("truth", [[0.0, 0.0, 0.0], [0.0, 0.1, 0.3]])
def test_squares_of_spread_and_noise_are_right_on_average(truth):
    rng = np.random.default_rng(1)
    found = [spread(*_drawn(rng, 50, truth, 1.0)) for _ in range(60)]
    true = float(np.var(truth, ddof=1))
    measured = np.mean([one.spread**2 - one.noise**2 for one in found])
    assert measured == pytest.approx(true, abs=4 * 0.02 / math.sqrt(60) + 0.1 * true)


def test_kinds_of_a_template_count_the_same():
    values = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    templates = ["a"] * 4 + ["b"] * 4
    groups = ["1/a", "2/a", "2/a", "2/a", "1/b", "2/b", "2/b", "2/b"]
    clusters = ["x", "x", "y", "z"] * 2
    found = spread(values, templates, groups, clusters)
    assert (found.lowest, found.highest) == pytest.approx((0.5, 1.0))


def test_one_item_tells_nothing_of_noise():
    found = spread([0.0, 1.0], ["a", "b"], ["a", "b"], ["x", "x"])
    assert found.spread == pytest.approx(math.sqrt(0.5))
    assert math.isnan(found.noise)
