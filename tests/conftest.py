"""Settings that every test shares."""

import os

import hypothesis
import pytest

# Times on a shared machine say nothing, and a run of CI should be the same twice.
hypothesis.settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    """Tests are compared bit by bit and run side by side: one thread each, one seed each."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
