"""Where Triton's kernels run in tests: on a GPU for real, elsewhere under the interpreter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


@contextlib.contextmanager
def gpu_memory(gib: float) -> Iterator[None]:
    """Set so many GiB of the GPU aside for what runs inside, or skip: another program may hold it.

    They are asked for at once, and stay with torch when they are dropped: nobody comes in between.
    """
    torch.cuda.empty_cache()
    try:
        torch.empty(int(gib * 2**30), dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        free, whole = (n / 2**30 for n in torch.cuda.mem_get_info())
        pytest.skip(f"it takes {gib} GiB on the GPU; of {whole:.0f} GiB there {free:.0f} are free")
    try:
        yield
    finally:
        torch.cuda.empty_cache()
