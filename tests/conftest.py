"""Settings that every test shares."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    """Tests are compared bit by bit and run side by side: one thread each, one seed each."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
