"""SSD's Triton kernels where a row is cut into pieces: what enters each, and what is not read."""

from __future__ import annotations

import pytest
import torch

from braidlm.segments import Segments
from tests.ops.kernels import DEVICE, checked
from tests.ops.test_ssd_triton import errors, inputs
from tests.tolerances import SSD_TRITON

pytestmark = checked

LENGTH = 333
RATES = (-0.003, -0.3, -3.0, -60.0)
"""Of heads that keep everything, and that keep a few chunks, one, and a few tokens."""


@pytest.fixture(scope="module")
def kernels():
    """The module: importing it takes triton, and tests/conftest.py has chosen its interpreter."""
    return pytest.importorskip("braidlm.ops.ssd.triton")


@pytest.fixture
def pieces(kernels, monkeypatch):
    """Two pieces of a row, of 10 and 11 chunks or so, in parts of 5 or 6."""
    monkeypatch.setattr("braidlm.ops.ssd.triton_call.PROGRAMS", 2 * len(RATES))


def given() -> list[torch.Tensor]:
    args = inputs(1, LENGTH, len(RATES), 3, 1, 5)
    args[2] = torch.tensor(RATES)
    return args


def documents() -> Segments:
    """One that ends inside a chunk of the first part, padding, and one over all that follows."""
    doc = torch.zeros(1, LENGTH, dtype=torch.long)
    doc[:, 37:50] = -1
    doc[:, 50:] = 1
    return Segments.from_doc_ids(doc)


@pytest.mark.parametrize("near", [4, 256])
@pytest.mark.parametrize("is_packed", [False, True])
def test_pieces_are_the_recurrence(kernels, pieces, monkeypatch, near, is_packed):
    monkeypatch.setattr("braidlm.ops.ssd.triton_call.NEAR", near)
    segments = documents() if is_packed else None
    first = None if is_packed else torch.randn(1, len(RATES), 3, 5)
    assert max(errors(kernels.ssd_triton, given(), first, segments, 16)) < SSD_TRITON


def backward(kernels, keep: bool) -> list[torch.Tensor]:
    x, dt, a, b, c, d = (v.to(DEVICE) for v in given())
    first, dy = torch.randn(1, len(RATES), 3, 5).to(DEVICE), torch.randn(x.shape).to(DEVICE)
    scan = (x, dt, a, b, c, d, None, None, first)
    y, last, entering = kernels.ssd_forward(*scan, 16, True)
    assert entering is not None
    kept = entering if keep else None
    return [y, last, *kernels.ssd_backward(*scan, dy, last, 16, entering=kept)]


def test_what_is_passed_by_or_kept_changes_no_bit(kernels, pieces, monkeypatch):
    """Every chunk walked; and what enters the pieces found a second time."""
    found = []
    for near, keep in ((256, True), (0, True), (256, False)):
        monkeypatch.setattr("braidlm.ops.ssd.triton_call.NEAR", near)
        torch.manual_seed(0)
        found.append(backward(kernels, keep))
    for others in found[1:]:
        for ours, theirs in zip(found[0], others, strict=True):
            assert torch.equal(ours, theirs)
