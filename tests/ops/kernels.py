"""Where Triton's kernels run in tests: on a GPU for real, elsewhere under the interpreter."""

from __future__ import annotations

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
checked = [
    pytest.mark.filterwarnings(
        "ignore:Conversion of an array with ndim > 0:DeprecationWarning"  # the interpreter's own
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]
"""The `pytestmark` of a module that launches kernels; tests/conftest.py chooses the interpreter."""
