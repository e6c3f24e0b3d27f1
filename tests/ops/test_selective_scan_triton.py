"""The selective scan's Triton kernels: for real on a GPU, elsewhere in fp32 when interpreted."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.selective_scan import selective_scan
from tests.ops.compare import layouts, only_real, relative_l2, with_gradients
from tests.ops.kernels import DEVICE, HAS_GPU, checked, gpu_memory, needs_gpu
from tests.tolerances import BF16_L2, SCAN_TRITON

pytestmark = checked


@pytest.fixture(scope="module")
def kernels():
    """The module: importing it takes triton, and tests/conftest.py has chosen its interpreter."""
    return pytest.importorskip("braidlm.ops.selective_scan.triton")


@pytest.fixture
def sizes(kernels, monkeypatch):
    """Sets how long chunks are, and how many of them a piece has at least."""
    from braidlm.ops.selective_scan import triton_call

    def choose(chunk, least):
        monkeypatch.setattr(triton_call, "CHUNK", chunk)
        monkeypatch.setattr(triton_call, "LEAST", least)

    return choose


def inputs(batch, length, width, state, dtype=torch.float32) -> list[Tensor]:
    """x, dt, A, B, C, D; x, B and C rounded to `dtype`."""
    x = torch.randn(batch, length, width)
    dt = F.softplus(torch.randn(batch, length, width) - 1)
    a = -torch.rand(width, state) * 8
    b, c = torch.randn(2, batch, length, state)
    return [x.to(dtype), dt, a, b.to(dtype), c.to(dtype), torch.randn(width)]


def fused(batch, length, width, state, dtype=torch.float32) -> list[Tensor]:
    """The same with dt before bias and softplus, rounded too; then z, rounded, and dt_bias."""
    x, _, *rest = inputs(batch, length, width, state, dtype)
    raw, z = torch.randn(2, batch, length, width).to(dtype)
    return [x, 3 * raw, *rest, z, torch.randn(width) - 1]


PLAIN = {"z": None, "dt_bias": None, "dt_softplus": False}


def errors(form, args, state=None, segments=None, return_state=True) -> list[float]:
    """Relative errors of outputs, last states and every gradient against the recurrence in fp64."""

    def run(function, dtype, device):
        moved = [v.detach().to(device, dtype or v.dtype).requires_grad_() for v in args]
        first, here = None, None if segments is None else segments.to(device)
        if state is not None:
            first = state.detach().to(device, dtype or state.dtype).requires_grad_()

        def results():
            options = {"segments": here, "initial_state": first, "return_state": return_state}
            z, bias = (*moved[6:], None, None)[:2]
            around = {"z": z, "dt_bias": bias, "dt_softplus": bias is not None}
            y, last = function(*moved[:6], **around, **options, chunk_size=16)
            return [only_real(y, here).cpu(), None if last is None else last.cpu()]

        return with_gradients(results, moved + ([] if first is None else [first]))

    def naive(*tensors, **options):
        return selective_scan(*tensors, **options, impl="naive")

    ours = run(form, None, DEVICE)
    truth = run(naive, torch.float64, "cpu")
    assert len(ours) == len(truth)
    assert all(bool(v.isfinite().all()) for v in ours)
    return [relative_l2(a.cpu(), b) for a, b in zip(ours, truth, strict=True)]


CASES = [
    (1, 1, 3, 5, "rows", True),
    (2, 6, 35, 4, "rows", False),
    (2, 11, 3, 16, "padded", True),
    (2, 15, 3, 3, "packed", True),
    (2, 15, 3, 3, "packed", False),
    (2, 17, 17, 2, "edges", True),
]


def everywhere() -> list[Any]:
    """Every case alone and fused, in one piece and in as many as there are chunks; few are fast."""
    fast = {(0, inputs, 8), (1, fused, 4), (3, fused, 4), (4, inputs, 8), (2, fused, 8)}
    found = []
    for number, draw, (least, chunk) in product(
        range(len(CASES)), (inputs, fused), ((1, 8), (9, 4))
    ):
        marks = () if (number, draw, chunk) in fast else pytest.mark.slow
        name = f"{draw.__name__}-{chunk}-{CASES[number]}"
        found.append(pytest.param(CASES[number], draw, least, chunk, marks=marks, id=name))
    return found


@pytest.mark.parametrize(("case", "draw", "least", "chunk"), everywhere())
def test_it_is_the_recurrence(kernels, sizes, case, draw, least, chunk):
    sizes(chunk, least)
    batch, length, width, n, layout, has_state = case
    segments = layouts(length, 4)[layout]
    args = draw(batch, length, width, n)
    n_docs = batch if segments is None else segments.n_docs
    state = torch.randn(n_docs, width, n) if has_state else None
    found = errors(kernels.scan_triton, args, state, segments, return_state=has_state)
    assert max(found) < SCAN_TRITON, found


def test_strong_decay_and_standing_still(kernels, sizes):
    sizes(4, 1)
    args = inputs(1, 11, 4, 5)
    args[1][:, 3:6] = 1e6
    args[1][:, 8] = 0.0
    args[2] = torch.tensor([-1e6, -1e-6, -30.0, 0.0])[:, None].expand(4, 5).contiguous()
    found = errors(kernels.scan_triton, args, torch.randn(1, 4, 5))
    assert max(found[:2]) < SCAN_TRITON, found


def test_views_and_expanded_gradients(kernels):
    """Mixers hand over slices of one projection; a sum hands back a gradient without strides."""
    whole = torch.randn(2, 9, 7 + 2 * 3, device=DEVICE, requires_grad=True)
    x, b, c = whole.split((7, 3, 3), dim=-1)
    dt = torch.rand(7, 2, 9, device=DEVICE).permute(1, 2, 0)
    args = (x, dt, -torch.rand(3, 7, device=DEVICE).t(), b, c, None)
    options = {"chunk_size": 16, "segments": None, "initial_state": None, "return_state": False}
    options |= PLAIN
    y, none = kernels.scan_triton(*args, **options)
    assert none is None
    (ours,) = torch.autograd.grad(y.sum(), whole)
    theirs, _ = selective_scan(*args, return_state=False, impl="naive")
    torch.testing.assert_close(y, theirs, rtol=1e-5, atol=1e-5)
    (truth,) = torch.autograd.grad(theirs.sum(), whole)
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)


def test_only_the_last_state_is_used(kernels):
    """No gradient of y arrives at all."""
    args = [v.to(DEVICE).requires_grad_() for v in inputs(2, 9, 3, 4)]
    options = {"chunk_size": 16, "segments": None, "initial_state": None, "return_state": True}
    options |= PLAIN
    _, last = kernels.scan_triton(*args, **options)
    _, truth = selective_scan(*args, impl="naive")
    assert truth is not None
    ours = torch.autograd.grad((last**2).sum(), args, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad((truth**2).sum(), args, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("is_full", [True, False])
def test_the_operator_is_what_a_compiler_is_told_of_it(kernels, is_full):
    """Its schema, the shapes of its results, and its gradients under tracing."""
    draw = fused if is_full else inputs
    leaves = [v.to(DEVICE).requires_grad_() for v in draw(2, 9, 20, 5)]
    first = torch.randn(2, 20, 5, device=DEVICE, requires_grad=True)
    tensors = (*leaves, None, None, first) if is_full else (*leaves[:5], *[None] * 6)
    options = (is_full, 2, True, True)
    torch.library.opcheck(torch.ops.braidlm.selective_scan.default, (*tensors, *options))


@needs_gpu
@pytest.mark.parametrize("layout", ["rows", "packed", "edges"])
@pytest.mark.parametrize("shape", [(2, 200, 64, 16), (2, 600, 96, 16), (2, 300, 40, 64)], ids=str)
@pytest.mark.parametrize("draw", [inputs, fused])
def test_bf16_loses_no_more_than_its_outputs(kernels, shape, layout, draw):
    batch, length, width, n = shape
    segments = layouts(length, 64)[layout]
    args = draw(*shape, dtype=torch.bfloat16)
    state = torch.randn(batch if segments is None else segments.n_docs, width, n)
    found = errors(kernels.scan_triton, args, state, segments)
    assert max(found) < BF16_L2["selective_scan"], found


@needs_gpu
@gpu_memory(24)
def test_more_numbers_than_32_bits_count():
    """So that an offset of 32 bits would be somewhere else."""
    length, cut = 2**20 + 165, 2**20 - 1000
    x, dt, a, b, c, d = (v.cuda() for v in inputs(1, 1, 2112, 2, torch.bfloat16))
    x = torch.randn(1, length, 2112, device="cuda", dtype=torch.bfloat16)
    dt = torch.rand(1, length, 2112, device="cuda", dtype=torch.bfloat16)
    b, c = torch.randn(2, 1, length, 2, device="cuda")
    whole, last = selective_scan(x, dt, a, b, c, d, impl="triton")
    head = (x[:, :cut], dt[:, :cut], a, b[:, :cut], c[:, :cut], d)
    _, state = selective_scan(*head, impl="triton")
    x, dt, b, c = (v[:, cut:] for v in (x, dt, b, c))
    y, end = selective_scan(x, dt, a, b, c, d, initial_state=state, impl="triton")
    assert last is not None
    assert end is not None
    assert relative_l2(whole[:, cut:], y.double()) < 1e-5
    assert relative_l2(last, end.double()) < 1e-5
    truth, _ = selective_scan(x, dt, a, b, c, d, initial_state=state, impl="chunk")
    assert relative_l2(y, truth.double()) < 1e-2


@needs_gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("draw", [inputs, fused])
def test_a_compiled_graph_holds_it_whole(draw):
    args = [v.cuda().requires_grad_() for v in draw(2, 100, 32, 16)]

    def loss(*tensors):
        z, bias = (*tensors[6:], None, None)[:2]
        around = {"z": z, "dt_bias": bias, "dt_softplus": bias is not None}
        y, last = selective_scan(*tensors[:6], **around)
        assert last is not None
        return (y**2).sum() + last.sum()

    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*args), args)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_auto_takes_it_and_says_why_not():
    args = [v.cuda() for v in inputs(1, 32, 16, 16)]
    assert torch.equal(selective_scan(*args)[0], selective_scan(*args, impl="triton")[0])
    with pytest.raises(ValueError, match="fp32 or less"):
        selective_scan(*(v.double() for v in args), impl="triton")


@pytest.mark.skipif(HAS_GPU, reason="a GPU is there")
def test_a_cpu_is_told_why_not():
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        selective_scan(*inputs(1, 8, 3, 5), impl="triton")
