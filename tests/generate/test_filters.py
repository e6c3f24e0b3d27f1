"""Sampling filters against distributions computed by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from braidlm.generate.filters import distribution, pick, probabilities, top_k, top_p


def _p(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _same(found: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, _p(*expected), rtol=1e-12, atol=1e-12)


def test_temperature_raises_probabilities_to_a_power():
    logits = _p(0.1, 0.3, 0.6).log()
    _same(probabilities(logits, 1.0), 0.1, 0.3, 0.6)
    _same(probabilities(logits + 7, 0.5), 0.01 / 0.46, 0.09 / 0.46, 0.36 / 0.46)
    total = 0.1**0.5 + 0.3**0.5 + 0.6**0.5
    _same(probabilities(logits, 2.0), 0.1**0.5 / total, 0.3**0.5 / total, 0.6**0.5 / total)


def test_a_tiny_temperature_is_the_largest_and_not_nan():
    _same(probabilities(_p(1.0, 3.0, 2.0), 1e-300), 0, 1, 0)


def test_top_k():
    p = _p(0.1, 0.4, 0.2, 0.3)
    _same(top_k(p, 2), 0, 4 / 7, 0, 3 / 7)
    _same(top_k(p, 1), 0, 1, 0, 0)
    for everything in (0, 4, 9):
        assert top_k(p, everything) is p


def test_top_k_keeps_what_ties_with_the_last():
    _same(top_k(_p(0.2, 0.4, 0.2, 0.2), 2), 0.2, 0.4, 0.2, 0.2)
    _same(top_k(_p(0.3, 0.3, 0.3, 0.1), 1), 1 / 3, 1 / 3, 1 / 3, 0)


def test_top_p():
    p = _p(0.2, 0.5, 0.3)
    _same(top_p(p, 0.5), 0, 1, 0)
    _same(top_p(p, 0.51), 0, 0.625, 0.375)
    _same(top_p(p, 0.8), 0, 0.625, 0.375)
    _same(top_p(p, 0.81), 0.2, 0.5, 0.3)
    _same(top_p(p, 1e-12), 0, 1, 0)
    assert top_p(p, 1.0) is p


def test_top_p_does_not_hang_on_the_last_bit():
    assert 0.7 + 0.2 < 0.9
    _same(top_p(_p(0.7, 0.2, 0.1), 0.9), 7 / 9, 2 / 9, 0)


def test_top_p_keeps_what_ties_with_the_last():
    _same(top_p(_p(0.25, 0.5, 0.25), 0.6), 0.25, 0.5, 0.25)
    _same(top_p(_p(0.25, 0.25, 0.25, 0.25), 0.1), 0.25, 0.25, 0.25, 0.25)


def test_order_is_temperature_then_k_then_p():
    logits = _p(0.4, 0.3, 0.2, 0.1).log()
    # Among the first three, 4/9, 3/9 and 2/9, two reach 0.75; of all four, three are needed.
    _same(distribution(logits, 1.0, 3, 0.75), 4 / 7, 3 / 7, 0, 0)
    _same(distribution(logits, 1.0, 0, 0.75), 4 / 9, 3 / 9, 2 / 9, 0)
    # At temperature 1/2 the first one has 16/30, so that 0.5 keeps it alone.
    _same(distribution(logits, 0.5, 0, 0.5), 1, 0, 0, 0)


def test_rows_are_filtered_apart():
    p = torch.stack((_p(0.1, 0.2, 0.7), _p(0.5, 0.4, 0.1)))
    torch.testing.assert_close(top_k(p, 1), torch.stack((_p(0, 0, 1), _p(1, 0, 0))))
    torch.testing.assert_close(
        top_p(p, 0.8), torch.stack((_p(0, 2 / 9, 7 / 9), _p(5 / 9, 4 / 9, 0)))
    )


def test_pick_inverts_the_cumulative_sum():
    p = _p(0.0, 0.25, 0.0, 0.5, 0.25, 0.0)
    for uniform, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (0.999, 4)):
        assert int(pick(p, torch.tensor(uniform, dtype=torch.float64))) == token


def test_pick_never_takes_what_has_no_probability():
    almost_one = torch.tensor(1 - 2**-53, dtype=torch.float64)
    for p in (_p(1 / 3, 1 / 3, 1 / 3, 0.0), _p(0.0, 0.1, 0.7, 0.2, 0.0), _p(0.0, 1.0, 0.0)):
        for uniform in (torch.zeros((), dtype=torch.float64), almost_one):
            assert p[int(pick(p, uniform))] > 0


def test_pick_gives_each_token_its_share():
    p = _p(0.1, 0.2, 0.3, 0.4)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(pick(p.expand(1000, 4), uniform), minlength=4)
    assert counts.tolist() == [100, 200, 300, 400]


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=12),
    st.integers(0, 13),
    st.floats(0.01, 1),
    st.floats(0.1, 5),
)
def test_a_filtered_distribution_is_one_and_keeps_the_best(logits, k, mass, temperature):
    x = torch.tensor(logits, dtype=torch.float64)
    full = probabilities(x, temperature)
    p = distribution(x, temperature, k, mass)
    assert float(p.sum()) == pytest.approx(1)
    assert (p[full == full.max()] > 0).all()
    kept = p > 0
    # Nothing that was dropped is more probable than anything that was kept.
    if not bool(kept.all()):
        assert full[~kept].max() <= full[kept].min() + 1e-15
    assert int(kept.sum()) <= len(logits)
