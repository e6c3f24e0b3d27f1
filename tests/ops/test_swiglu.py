from __future__ import annotations

import pytest
import torch

from braidlm.errors import InputError
from braidlm.ops.swiglu import swiglu


def test_the_first_half_gates_the_second():
    p = torch.tensor([[1.0, -2.0, 3.0, 5.0]], dtype=torch.float64)
    gate, up = 0.5 * p[:, :2], p[:, 2:]
    torch.testing.assert_close(swiglu(p, 0.5), gate / (1 + (-gate).exp()) * up)


@pytest.mark.parametrize(
    ("width", "impl", "error", "word"),
    [(5, "auto", ValueError, "5 channels"), (4, "fast", InputError, "auto, triton, torch")],
)
def test_what_does_not_fit_is_named(width, impl, error, word):
    with pytest.raises(error, match=word):
        swiglu(torch.zeros(1, width), impl=impl)
