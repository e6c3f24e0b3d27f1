import re

import pytest

from braidlm.arch import Spec, allocate
from braidlm.arch.pattern import parse
from braidlm.errors import InputError

NVIDIA_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"


@pytest.mark.parametrize(
    ("n", "attention", "mlp", "expected"),
    [
        (56, 0.08, 0.5, NVIDIA_8B),
        (56, 0.0714, 0.5, NVIDIA_8B),
        (56, 0.07, 0.5, NVIDIA_8B),
        (48, 0.08, 0.5, "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-"),
        (24, 0.08, 0.5, "M-M-M--*M-M-M-M-*M--M-M-"),
        (24, 0.08, 0.3, "MM-MM-M*M-MMM-MM*-MM-MM-"),
        (24, 0.16, 0.5, "M--M*-M--*M-M-*-M-M*--M-"),
        (12, 0.08, 0.5, "M-M-M-*-M-M-"),
        (48, 0.0, 0.5, "M-" * 24),
        (5, 0.0, 0.0, "MMMMM"),
        (3, 1.0, 0.0, "***"),
    ],
)
def test_even_spread_gives_megatrons_strings(n, attention, mlp, expected):
    assert allocate.even_spread(n, attention, mlp) == expected


def test_even_spread_with_other_letters():
    assert allocate.even_spread(12, 0.08, 0.5, symbols=("G", "A", "F")) == "GFGFGFAFGFGF"


@pytest.mark.parametrize(
    ("n", "k", "placement", "counted_from_1"),
    [
        (13, 3, "middle", (3, 7, 11)),
        (13, 3, "front", (1, 7, 11)),
        (13, 3, "end", (3, 7, 13)),
        (13, 1, "middle", (7,)),
        (13, 1, "front", (1,)),
        (12, 3, "even", (4, 8, 12)),
        (4, 4, "middle", (1, 2, 3, 4)),
        (4, 4, "front", (1, 2, 3, 4)),
        (4, 0, "front", ()),
        (4, 0, "even", ()),
    ],
)
def test_attention_positions(n, k, placement, counted_from_1):
    found = allocate.attention_positions(n, k, placement)
    assert tuple(i + 1 for i in found) == counted_from_1


@pytest.mark.parametrize("placement", ["front", "middle", "even", "end"])
@pytest.mark.parametrize("n", [1, 2, 5, 13, 28])
def test_positions_are_as_many_as_asked_for_and_ascend(n, placement):
    for k in range(n + 1):
        found = allocate.attention_positions(n, k, placement)
        assert len(found) == k
        assert list(found) == sorted(set(found))
        assert all(0 <= i < n for i in found)


def test_interleave_and_parallel():
    assert allocate.interleave(4, 1, "even") == "M-M-M-*-"
    assert allocate.interleave(3, 1, mlp="", ssm="S", attention="W") == "SWS"
    assert allocate.parallel(2) == "{M*}-{M*}-"
    assert allocate.parallel(3, [1], branches="SW") == "S-{SW}-S-"
    assert allocate.at_layers(3, (0, 2), special="P", mlp="") == "PMP"


def test_helpers_give_patterns():
    for text in (allocate.even_spread(30, 0.1, 0.4), allocate.parallel(5, [0, 4])):
        assert "".join("".join(x) for x in parse(text).expand()) == re.sub("[{}]", "", text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: allocate.even_spread(0, 0.1), "n_layers = 0: at least 1"),
        (lambda: allocate.even_spread(9, 0.6, 0.5), "together at most 1"),
        (lambda: allocate.even_spread(9, -0.1), "both must be at least 0"),
        (lambda: allocate.attention_positions(3, 4, "even"), "n_attention = 4: must be between 0"),
        (
            lambda: allocate.attention_positions(3, 1, "top"),  # type: ignore[arg-type]
            "placement = 'top': allowed are front",
        ),
        (lambda: allocate.at_layers(3, [3], special="P"), "layer 3: must be between 0 and 2"),
    ],
)
def test_bad_allocations_are_refused(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("total", "share", "expected"),
    [
        (2304, 0.5, (2304, 1152)),
        (2816, 7 / 11, (2048, 1792)),
        (1536, 1 / 12, (2816, 128)),
        (640, 0.26, (2 * 448, 192)),
        (128, 0.3, (128, 64)),
    ],
)
def test_a_split_gives_both_branches_their_widths(total, share, expected):
    found = allocate.split(total, share)
    assert found == {"M": {"width": expected[0]}, "*": {"width": expected[1]}}
    (sublayer,) = Spec.of({"pattern": "{M*}", "mixers": found}).sublayers
    assert tuple(b.width for b in sublayer.branches) == expected


def test_a_split_in_other_units():
    found = allocate.split(96, 0.25, expand=1, multiple=8, symbols=("G", "W"))
    assert found == {"G": {"width": 72}, "W": {"width": 24}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 0.5), "total = 100, expand = 2: must be at least 1, and total a multiple of"),
        ((0, 0.5), "total = 0"),
        ((128, 0.1), "attention_share = 0.1: must leave each branch at least 64 of 128 channels"),
        ((128, 1.0), "attention_share = 1.0: must leave"),
        ((128, -1.0), "attention_share = -1.0: must leave"),
    ],
)
def test_a_split_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        allocate.split(*arguments)
