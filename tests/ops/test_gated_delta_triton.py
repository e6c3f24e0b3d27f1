"""The gated delta rule's Triton kernels: on a GPU, elsewhere in fp32 under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.gated_delta import gated_delta
from braidlm.segments import Segments
from tests.ops.compare import layouts, only_real, relative_l2, with_gradients
from tests.ops.kernels import DEVICE, HAS_GPU, checked, gpu_memory, needs_gpu
from tests.tolerances import BF16_L2, GATED_DELTA_TRITON

pytestmark = checked


@pytest.fixture(scope="module")
def kernels():
    """The module: importing it takes triton, and tests/conftest.py has chosen its interpreter."""
    return pytest.importorskip("braidlm.ops.gated_delta.triton")


def inputs(
    batch, length, heads, width, groups, keys, dtype=torch.float32, device="cpu"
) -> list[Tensor]:
    """q, k, v, g, beta up to 2; the first three rounded to `dtype`, in which products run."""
    q, k = F.normalize(torch.randn(2, batch, length, groups, keys, device=device), dim=-1)
    v = torch.randn(batch, length, heads, width, device=device)
    g = -F.softplus(torch.randn(batch, length, heads, device=device) - 1)
    beta = 2 * torch.sigmoid(torch.randn(batch, length, heads, device=device))
    return [q.to(dtype), k.to(dtype), v.to(dtype), g, beta]


def errors(kernels, args, state, segments, chunk, scale=0.5) -> list[float]:
    """Relative errors of outputs, last states and every gradient against the recurrence in fp64."""
    segments = None if segments is None else segments.to(DEVICE)
    names = {"scale": scale, "chunk_size": chunk, "segments": segments, "return_state": True}

    def run(function, dtype):
        moved = [v.detach().to(DEVICE, dtype or v.dtype).requires_grad_() for v in args]
        first = None
        if state is not None:
            first = state.detach().to(DEVICE, dtype or state.dtype).requires_grad_()

        def results():
            y, last = function(*moved, **names, initial_state=first)
            return [only_real(y, segments).cpu(), last.cpu()]

        return with_gradients(results, moved + ([] if first is None else [first]))

    def naive(*tensors, **options):
        return gated_delta(*tensors, **options, impl="naive")

    ours, truth = run(kernels.gated_delta_triton, None), run(naive, torch.float64)
    assert all(bool(v.isfinite().all()) for v in ours)
    return [relative_l2(a.cpu(), b.cpu()) for a, b in zip(ours, truth, strict=True)]


CASES = [
    (1, 1, 2, 3, 1, 5, 16, "rows", True),
    (1, 37, 2, 19, 1, 5, 16, "rows", True),
    (1, 33, 2, 3, 2, 20, 16, "rows", False),
    (2, 63, 1, 3, 1, 5, 64, "padded", True),
    (2, 70, 1, 3, 1, 5, 32, "packed", True),
    (2, 50, 1, 3, 1, 5, 16, "edges", False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_recurrence(kernels, case):
    batch, length, heads, width, groups, keys, chunk, layout, has_state = case
    segments = layouts(length, 16)[layout]
    args = inputs(batch, length, heads, width, groups, keys)
    n_docs = batch if segments is None else segments.n_docs
    state = torch.randn(n_docs, heads, keys, width) if has_state else None
    assert max(errors(kernels, args, state, segments, chunk)) < GATED_DELTA_TRITON


def test_strong_decay_and_standing_still(kernels):
    args = inputs(1, 40, 3, 3, 1, 5)
    args[3][:, 10:20] = -1e6
    args[3][:, 30] = 0.0
    args[4][:, 5:8] = 0.0
    args[3][..., 1] = -90.0
    args[3][..., 2] = 0.0
    assert max(errors(kernels, args, torch.randn(1, 3, 5, 3), None, 16)) < GATED_DELTA_TRITON


def test_one_key_again_and_again(kernels):
    """What powers of the triangular system would lose: its inverse is small, its powers are not."""
    args = inputs(1, 64, 2, 3, 1, 5)
    args[1] = args[1][:, :1].expand(-1, 64, -1, -1)
    args[3] = torch.zeros_like(args[3])
    args[4] = torch.ones_like(args[4]) * torch.tensor([1.0, 1.5])
    assert max(errors(kernels, args, None, None, 64)) < GATED_DELTA_TRITON


def test_padding_reaches_no_document_whatever_it_holds(kernels):
    segments = layouts(40, 16)["padded"]
    assert segments is not None
    args = inputs(2, 40, 2, 3, 1, 5)
    noisy = [v.clone() for v in args]
    for v in noisy:
        v[~segments.is_real] = torch.nan
    names = {"scale": 1.0, "chunk_size": 16, "initial_state": None, "return_state": True}
    here = segments.to(DEVICE)
    y, state = kernels.gated_delta_triton(*(v.to(DEVICE) for v in args), segments=here, **names)
    y2, state2 = kernels.gated_delta_triton(*(v.to(DEVICE) for v in noisy), segments=here, **names)
    assert torch.equal(y, y2)
    assert torch.equal(state, state2)


def test_a_batch_of_padding_has_no_states(kernels):
    segments = Segments.from_doc_ids(torch.full((1, 20), -1))
    args = [v.to(DEVICE) for v in inputs(1, 20, 2, 3, 1, 5)]
    names = {"scale": 1.0, "chunk_size": 16, "initial_state": None, "return_state": True}
    y, state = kernels.gated_delta_triton(*args, segments=segments.to(DEVICE), **names)
    assert torch.equal(y, torch.zeros_like(y))
    assert state.shape == (0, 2, 5, 3)


def test_views_are_taken_as_they_lie(kernels):
    """Mixers hand over slices of one projection; a sum hands back a gradient without strides."""
    whole = torch.randn(2, 20, 5 + 5 + 2 * 3, device=DEVICE, requires_grad=True)
    q, k, v = whole.split((5, 5, 6), dim=-1)
    g, beta = -torch.rand(2, 2, 2, 20, device=DEVICE).permute(0, 2, 3, 1)
    args = (q[:, :, None], F.normalize(k[:, :, None], dim=-1), v.unflatten(-1, (2, 3)), g, -beta)
    names = {"scale": 1.0, "chunk_size": 16, "segments": None, "initial_state": None}
    y, none = kernels.gated_delta_triton(*args, **names, return_state=False)
    assert none is None
    truth, _ = gated_delta(*args, **names, impl="naive")
    torch.testing.assert_close(y, truth, rtol=1e-5, atol=1e-5)
    sums = (y.sum(), truth.sum())
    (ours,), (theirs,) = (torch.autograd.grad(v, whole, retain_graph=True) for v in sums)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


SHAPES = [
    (2, 200, 8, 64, 4, 128),
    (2, 1000, 4, 256, 4, 128),
    (1, 3000, 6, 192, 2, 96),
]


@needs_gpu
@pytest.mark.parametrize("layout", ["rows", "packed"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_bf16_stays_near_fp64(kernels, sizes, layout):
    batch, length, heads, width, _, keys = sizes
    ids = torch.rand(batch, length).lt(0.01).cumsum(1) - 1
    segments = None if layout == "rows" else Segments.from_doc_ids(ids)
    args = inputs(*sizes, dtype=torch.bfloat16)
    n_docs = batch if segments is None else segments.n_docs
    found = errors(kernels, args, torch.randn(n_docs, heads, keys, width), segments, 64)
    assert max(found) < BF16_L2["gated_delta"], found


@needs_gpu
def test_fp32_on_a_gpu(kernels):
    args = inputs(2, 200, 4, 100, 2, 128)
    assert max(errors(kernels, args, torch.randn(2, 4, 128, 100), None, 64)) < GATED_DELTA_TRITON


@needs_gpu
@gpu_memory(36)
def test_a_million_tokens_go_on_where_they_were_cut():
    """More than 2**31 numbers, so that an offset of 32 bits would be somewhere else."""
    length, cut = 2**20 + 165, 2**20 - 1000
    args = inputs(1, length, 34, 64, 1, 16, torch.bfloat16, "cuda")
    whole, last = gated_delta(*args, impl="triton")
    _, state = gated_delta(*(v[:, :cut] for v in args), impl="triton")
    y, end = gated_delta(*(v[:, cut:] for v in args), initial_state=state, impl="triton")
    assert last is not None
    assert end is not None
    assert relative_l2(whole[:, cut:], y.double()) < 1e-2
    assert relative_l2(last, end.double()) < 1e-2
    assert state is not None
    wide = [v[:, cut:].double() for v in args]
    truth, _ = gated_delta(*wide, initial_state=state.double(), impl="chunk")
    assert relative_l2(y, truth) < 1e-2
    del whole, wide
    args = [v.requires_grad_() for v in args]
    y = gated_delta(*args, impl="triton", return_state=False)[0]
    found = torch.autograd.grad(y[:, -700:].float().square().sum(), args)
    short = [v[:, -1000:].detach().requires_grad_() for v in args]
    _, state = gated_delta(*(v[:, :-1000] for v in args), impl="triton")
    assert state is not None
    y = gated_delta(*short, initial_state=state.detach(), impl="triton", return_state=False)[0]
    truths = torch.autograd.grad(y[:, -700:].float().square().sum(), short)
    for a, b in zip(found, truths, strict=True):
        assert relative_l2(a[:, -1000:], b.double()) < 2e-2


@needs_gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_graph_holds_it_whole():
    args = [v.requires_grad_() for v in inputs(2, 200, 4, 16, 2, 16, device="cuda")]

    def loss(*tensors):
        y, last = gated_delta(*tensors)
        assert last is not None
        return (y**2).sum() + last.sum()

    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*args), args)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_auto_takes_it_and_says_why_not():
    args = [v.cuda() for v in inputs(1, 32, 2, 16, 1, 16)]
    ours, _ = gated_delta(*args, impl="triton")
    torch.testing.assert_close(gated_delta(*args)[0], ours, rtol=0, atol=0)
    with pytest.raises(ValueError, match="fp32 or less"):
        gated_delta(*(v.double() for v in args), impl="triton")
    q, k, v, g, beta = args
    g = g[..., None].expand(-1, -1, -1, 16)
    with pytest.raises(ValueError, match="one decay per head"):
        gated_delta(q, k, v, g, beta, impl="triton")


@pytest.mark.skipif(HAS_GPU, reason="a GPU is there")
def test_a_cpu_is_told_why_not():
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        gated_delta(*inputs(1, 8, 2, 3, 1, 5), impl="triton")
