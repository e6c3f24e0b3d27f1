"""Work that grows with the square of the length would show here, backward pass included."""

from __future__ import annotations

import pytest
import torch

from braidlm.ops.gated_delta import gated_delta
from tests.ops.test_ssd_is_linear import CountElements


def elements_made(n_chunks: int, decay_channels: tuple[int, ...]) -> int:
    length = 4 * n_chunks
    q, k, v = torch.randn(3, 1, length, 2, 3)
    g, beta = -torch.rand(1, length, 2, *decay_channels), torch.rand(1, length, 2)
    args = [x.clone().requires_grad_() for x in (q, k, v, g, beta)]
    with CountElements() as counter:
        y, _ = gated_delta(*args, chunk_size=4, return_state=False)
        y.sum().backward()
    return counter.total


@pytest.mark.parametrize("decay_channels", [(), (3,)])
def test_twice_the_chunks_make_at_most_twice_the_elements(decay_channels):
    assert elements_made(128, decay_channels) <= 2.05 * elements_made(64, decay_channels)
