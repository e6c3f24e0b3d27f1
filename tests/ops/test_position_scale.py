"""The factor of a query by its position, against the formula written out."""

import math

import pytest
import torch

from braidlm.ops.position_scale import LogScale, StepScale, position_scale


@pytest.mark.parametrize("first", [0, 1])
def test_it_is_its_formula(first):
    positions = torch.tensor([[0, 1, 6, 7, 8, 20], [100, 0, 13, 14, 5000, 63]])
    log = position_scale(positions, LogScale(500.0, first))
    steps = position_scale(positions, StepScale(7.0, first, 0.3))
    assert log.dtype == steps.dtype == torch.float32
    for row, column in [(r, c) for r in range(2) for c in range(6)]:
        t = int(positions[row, column]) + first
        expected = math.log(t + 500) / math.log(500)
        assert float(log[row, column]) == pytest.approx(expected, rel=1e-6)
        expected = 1 + 0.3 * math.log(1 + t // 7)
        assert float(steps[row, column]) == pytest.approx(expected, rel=1e-6)


def test_it_begins_at_one():
    start = torch.zeros(1, 1, dtype=torch.int64)
    assert float(position_scale(start, LogScale(500.0, 0))) == 1.0
    assert float(position_scale(start, StepScale(2.0, 1, 0.1))) == 1.0
