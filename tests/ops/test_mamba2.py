"""Mamba-2 between its projections as one operator against its parts, each by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.conv import causal_conv
from braidlm.ops.mamba2 import Shape, Weights, joins
from braidlm.ops.norm import gated_rms_norm
from braidlm.ops.ssd import ssd
from braidlm.segments import Segments
from tests.ops.compare import layouts, only_real, relative_l2, with_gradients
from tests.ops.kernels import DEVICE, HAS_GPU, checked
from tests.tolerances import SSD_TRITON

pytestmark = checked
SHAPE = Shape(
    n_heads=2, head_dim=16, n_groups=2, d_state=16, chunk_size=16, eps=1e-5, norm_first=False
)


def draws(shape: Shape, length: int) -> list[Tensor]:
    """p and the weights, the biases of the convolution among them."""
    inner, conv, heads = shape.widths
    p = torch.randn(2, length, inner + conv + heads)
    rates = -torch.rand(heads) - 0.5
    weights = (torch.randn(conv, 4) / 2, torch.randn(conv) / 2, torch.randn(heads) / 2 - 2, rates)
    return [p, *weights, torch.randn(heads), torch.randn(inner)]


def parts(inputs: list[Tensor], segments: Segments | None, shape: Shape, form: str) -> Tensor:
    """u by the operators that a model takes where it cannot take the one; `form`: of SSD."""
    p, w = inputs[0], Weights(*inputs[1:])
    z, xbc, dt = p.split(shape.widths, dim=-1)
    options = {"segments": segments, "return_state": False}
    xbc, _ = causal_conv(xbc, w.conv, w.conv_bias, activation="silu", **options)
    x, b, c = shape.parts(xbc)
    y, _ = ssd(x, F.softplus(dt.to(w.A.dtype) + w.dt_bias), w.A, b, c, D=w.D, **options, impl=form)
    y = y.flatten(2)
    first = {"n_groups": shape.n_groups, "norm_before_gate": shape.norm_first}
    return gated_rms_norm(y, z, w.scale, shape.eps, **first)


def on(v: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    return v.to(device, dtype).requires_grad_()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("layout", ["rows", "padded", "packed"])
def test_it_is_its_parts(layout, norm_first):
    from braidlm.ops.triton_mamba2 import mamba2_triton

    length, shape = 40, SHAPE._replace(norm_first=norm_first)
    segments = layouts(length, 8)[layout]
    here = None if segments is None else segments.to(DEVICE)
    places = (None, None) if here is None else (here.doc, here.position)
    drawn = draws(shape, length)
    mine = [on(v, DEVICE, torch.float32) for v in drawn]
    ours = with_gradients(
        lambda: [only_real(mamba2_triton(mine[0], Weights(*mine[1:]), *places, shape), here).cpu()],
        mine,
    )
    exact = [on(v, "cpu", torch.float64) for v in drawn]
    truth = with_gradients(
        lambda: [only_real(parts(exact, segments, shape, "chunk"), segments)], exact
    )
    for i, (a, b) in enumerate(zip(ours, truth, strict=True)):
        assert relative_l2(a.cpu(), b) < SSD_TRITON, i


@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_in_bf16_it_is_its_parts_bit_by_bit(layout):
    from braidlm.ops.triton_mamba2 import mamba2_triton

    shape = Shape(32, 64, 1, 128, 64, 1e-5, False)
    segments = layouts(200, 64)[layout]
    here = None if segments is None else segments.to(DEVICE)
    places = (None, None) if here is None else (here.doc, here.position)
    drawn = [
        v.to(torch.bfloat16 if i < 3 else torch.float32) for i, v in enumerate(draws(shape, 200))
    ]

    def run(form) -> list[Tensor]:
        leaves = [v.to(DEVICE, copy=True).requires_grad_() for v in drawn]
        return with_gradients(lambda: [only_real(form(leaves), here).cpu()], leaves, torch.bfloat16)

    ours = run(lambda v: mamba2_triton(v[0], Weights(*v[1:]), *places, shape))
    theirs = run(lambda v: parts(v, here, shape, "triton"))
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert relative_l2(a, b.double()) < (1e-2 if i == 4 else 1e-5), i  # A's is summed anew


def test_on_a_cpu_and_without_gradients_it_is_not_taken():
    p = torch.randn(1, 5, 8)
    sizes = {"K": 4, "P": 2, "N": 2, "W": 4}
    assert not joins(p.requires_grad_(), sizes, None)
    assert not joins(p.detach(), sizes, None)
