import pytest

from braidlm.report import units


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (999, "999"), (1234567, "1.23 M"), (999_999, "1.00 M"), (None, "–")],
)
def test_count(value, shown):
    assert units.count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (1536, "1.50 KiB"), (268435456, "256 MiB"), (None, "–")]
)
def test_size(value, shown):
    assert units.size(value) == shown


def test_flops_in_scientific_form():
    assert units.flops(1.25e15) == "1.25 × 10¹⁵"
    assert units.flops(9.999e15) == "1.00 × 10¹⁶"
    assert units.flops(0) == "0"


def test_error_sets_the_decimals():
    assert units.decimals(0.0123) == 3
    assert units.decimals(12.0) == 0
    assert units.decimals(None) == 4
    assert units.fixed(-0.0001, 2) == "0.00"
    assert units.fixed(-1.5, 1) == "−1.5"


def test_even_ticks_share_their_decimals():
    assert [units.even([0.8, 1.0])(t) for t in (0.8, 1.0)] == ["0.8", "1.0"]
    assert units.even([5.0])(5.0) == "5"


def test_listing():
    assert units.listing([]) == ""
    assert units.listing(["a"]) == "a"
    assert units.listing(["a", "b", "c"]) == "a, b and c"
