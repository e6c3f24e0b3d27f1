"""SSD's Triton kernels: for real on a GPU, elsewhere in fp32 under Triton's interpreter."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.ssd import ssd
from braidlm.segments import Segments
from tests.ops.compare import layouts, only_real, relative_l2, with_gradients
from tests.ops.kernels import DEVICE, HAS_GPU, checked, gpu_memory, needs_gpu
from tests.tolerances import BF16_L2, SSD_TRITON

pytestmark = checked


@pytest.fixture(scope="module")
def kernels():
    """The module: importing it takes triton, and tests/conftest.py has chosen its interpreter."""
    return pytest.importorskip("braidlm.ops.ssd.triton")


def inputs(batch, length, heads, width, groups, state, dtype=torch.float32) -> list[Tensor]:
    """x, dt, A, B, C, D, rounded to `dtype` where products run in it."""
    x = torch.randn(batch, length, heads, width)
    dt = F.softplus(torch.randn(batch, length, heads) - 1)
    a = -torch.rand(heads) * 8
    b, c = torch.randn(2, batch, length, groups, state)
    return [x.to(dtype), dt, a, b.to(dtype), c.to(dtype), torch.randn(heads)]


def results(
    form, args, state, segments, chunk, dtype=None, device=DEVICE, arrive_in=None
) -> list[Tensor]:
    """Outputs, last state and every gradient, computed in `dtype` if given.

    What arrives in the backward pass is exact in `arrive_in`, by default the dtype of the inputs.
    """
    moved = [v.detach().to(device, dtype or v.dtype).requires_grad_() for v in args]
    first = None
    if state is not None:
        first = state.detach().to(device, dtype or state.dtype).requires_grad_()
    here = None if segments is None else segments.to(device)
    options = {"chunk_size": chunk, "segments": here, "return_state": segments is None}
    options |= {"initial_state": first, "D": moved[5]}

    def found():
        y, last = form(*moved[:5], **options)
        return [only_real(y, here).cpu(), None if last is None else last.cpu()]

    leaves = moved + ([] if first is None else [first])
    return [v.detach().cpu() for v in with_gradients(found, leaves, arrive_in or args[0].dtype)]


def errors(form, args, state, segments, chunk, impl="naive") -> list[float]:
    """Relative errors of outputs, last state and every gradient against a form in fp64."""
    given, exact = (args, state, segments, chunk), partial(ssd, impl=impl)
    where = "cpu" if impl == "naive" else DEVICE  # it walks: a GPU would wait for its host
    ours = results(form, *given, arrive_in=torch.float64)
    truth = results(exact, *given, torch.float64, where, arrive_in=torch.float64)
    assert len(ours) == len(truth)
    assert all(bool(v.isfinite().all()) for v in ours)
    return [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]


CASES = [
    (1, 1, 2, 3, 1, 5, 16, "rows"),
    (2, 37, 4, 3, 2, 5, 16, "rows"),
    (2, 63, 4, 17, 1, 20, 64, "padded"),
    (2, 70, 4, 3, 2, 5, 16, "packed"),
    (2, 65, 6, 3, 2, 5, 16, "edges"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("least", [1, 8])
def test_it_is_the_recurrence(kernels, monkeypatch, case, least):
    """In one piece, and (at least one chunk a piece) in as many as there are chunks."""
    monkeypatch.setattr("braidlm.ops.ssd.triton_call.LEAST", least)
    batch, length, heads, width, groups, state, chunk, layout = case
    segments = layouts(length, 16)[layout]
    args = inputs(batch, length, heads, width, groups, state)
    first = torch.randn(batch, heads, width, state) if segments is None else None
    assert max(errors(kernels.ssd_triton, args, first, segments, chunk)) < SSD_TRITON


def test_strong_decay_and_standing_still(kernels):
    args = inputs(1, 40, 4, 3, 1, 5)
    args[1][:, 10:20] = 1e6
    args[1][:, 30] = 0.0
    args[2] = torch.tensor([-1e6, -1e-6, -30.0, -1.0])
    found = errors(kernels.ssd_triton, args, torch.randn(1, 4, 3, 5), None, 16)
    assert max(found[:2]) < SSD_TRITON


def test_a_long_decay_in_front_blurs_nothing_in_fp32(kernels):
    """Logarithms of decays add up to hundreds, and are subtracted where little decays. Seen: 7e-8,
    and 4.6e-6 where their sums have 24 bits."""
    args = inputs(1, 100, 4, 16, 1, 16)
    args[2] *= 4
    found = errors(kernels.ssd_triton, args, torch.randn(1, 4, 16, 16), None, 64)
    assert max(found[:2]) < 2e-7, found


def test_views_and_expanded_gradients(kernels):
    """Mixers hand over slices of one projection; a sum hands back a gradient without strides."""
    whole = torch.randn(2, 20, 4 * 3 + 2 * 5, device=DEVICE, requires_grad=True)
    x, b, c = whole.split((12, 5, 5), dim=-1)
    dt = torch.rand(4, 2, 20, device=DEVICE).permute(1, 2, 0)
    a = -torch.rand(4, device=DEVICE)
    args = (x.unflatten(-1, (4, 3)), dt, a, b[:, :, None], c[:, :, None])
    options = {"segments": None, "initial_state": None, "return_state": False}
    y, none = kernels.ssd_triton(*args, D=None, chunk_size=16, **options)
    assert none is None
    (ours,) = torch.autograd.grad(y.sum(), whole)
    theirs, _ = ssd(*args, chunk_size=16, return_state=False, impl="naive")
    torch.testing.assert_close(y, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ours, torch.autograd.grad(theirs.sum(), whole)[0], rtol=1e-4, atol=1e-4
    )


def of_rows(segments: Segments | None, batch: int) -> Segments | None:
    """The same layout of fewer rows."""
    if segments is None or segments.shape[0] == batch:
        return segments
    return Segments.from_doc_ids(segments.doc[:batch])


def lost_in_bf16(kernels, sizes, layout, draws=16) -> tuple[Tensor, Tensor]:
    """Relative errors of each result in bf16, of the kernels and of the chunked form.

    Each over all draws at once, with as many slow heads as fast ones: where a single head is slow,
    the gradient of A is little more than one number, and the ratio of two errors of one number says
    nothing.
    """
    batch, length, heads, width, _, state = sizes
    segments = of_rows(layouts(length, 64)[layout], batch)
    chunk = partial(ssd, impl="chunk")
    lost, size = torch.zeros(2), torch.zeros(1)
    for _ in range(draws):
        args = inputs(*sizes, dtype=torch.bfloat16)
        args[2] = -(8 / 800 ** torch.rand(heads))
        first = torch.randn(batch, heads, width, state) if segments is None else None
        given = (args, first, segments, 64)
        truth = results(chunk, *given, dtype=torch.float64)
        found = [results(form, *given) for form in (kernels.ssd_triton, chunk)]
        squares = [
            [(a.double() - b).square().sum() for a, b in zip(f, truth, strict=True)] for f in found
        ]
        lost = lost + torch.tensor(squares).T
        size = size + torch.tensor([v.square().sum() for v in truth])
    ours, theirs = (lost / size[:, None]).sqrt().unbind(1)
    return ours, theirs


LARGE = [(2, 200, 8, 64, 1, 128), (2, 1000, 16, 64, 2, 64), (1, 5000, 6, 48, 2, 100)]


@needs_gpu
@pytest.mark.parametrize("layout", ["rows", "packed", "edges"])
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_bf16_is_near_the_recurrence(kernels, sizes, layout):
    """One draw, with rates as they come: every result below a bound, their sum near the others'.

    In fp64 the chunked form agrees with the recurrence to 1e-9 (test_ssd.py), whose steps would
    take a minute.
    """
    batch, length, heads, width, _, state = sizes
    segments = of_rows(layouts(length, 64)[layout], batch)
    args = inputs(*sizes, dtype=torch.bfloat16)
    first = torch.randn(batch, heads, width, state) if segments is None else None
    ours = errors(kernels.ssd_triton, args, first, segments, 64, "chunk")
    theirs = errors(partial(ssd, impl="chunk"), args, first, segments, 64, "chunk")
    assert max(ours) < BF16_L2["ssd"]
    assert sum(ours) <= 1.3 * sum(theirs), (ours, theirs)


@needs_gpu
@pytest.mark.parametrize("layout", ["rows", "packed", "edges"])
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_bf16_loses_no_more_than_products_in_bf16(kernels, sizes, layout):
    ours, theirs = lost_in_bf16(kernels, sizes, layout)
    assert float(ours.max()) < BF16_L2["ssd"]
    assert bool((ours <= 1.5 * theirs).all()), (ours, theirs)


@pytest.mark.skipif(HAS_GPU, reason="a GPU computes in bf16 by itself")
@pytest.mark.parametrize(("length", "layout", "draws"), [(130, "rows", 4), (200, "edges", 2)])
def test_bf16_in_the_interpreter(kernels, monkeypatch, length, layout, draws):
    """The same on a CPU, once the interpreter rounds and multiplies bf16 as it should."""
    mend_bf16(monkeypatch)
    ours, theirs = lost_in_bf16(kernels, (1, length, 4, 16, 1, 32), layout, draws)
    assert bool((ours <= 1.5 * theirs).all()), (ours, theirs)


def mend_bf16(monkeypatch) -> None:
    """Triton's interpreter keeps bf16 as its bits: it cuts them off, and multiplies them."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast = builder.cast_impl

    def wide(x):
        bits = x.data.astype(np.uint32) << 16
        return bits.view(np.float32) if str(x.dtype.scalar) == "bf16" else x.data

    def cast_impl(self, src, dst_type):
        if str(src.dtype.scalar) == "bf16" and str(dst_type.scalar) == "fp32":
            return handle(wide(src), dst_type.scalar)
        if str(src.dtype.scalar) == "fp32" and str(dst_type.scalar) == "bf16":
            rounded = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16()
            return handle(rounded.view(torch.uint16).numpy(), dst_type.scalar)
        return cast(self, src, dst_type)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return handle(np.matmul(wide(a), wide(b)) + d.data, d.dtype.scalar)

    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    monkeypatch.setattr(builder, "create_dot", create_dot)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@gpu_memory(33)
def test_a_million_tokens_go_on_where_they_were_cut(dtype):
    """More than 2**31 numbers, so that an offset of 32 bits would be somewhere else."""
    length, cut = 2**20 + 165, 2**20 - 1000
    x, dt, a, b, c, _ = (v.cuda() for v in inputs(1, length, 32, 1, 1, 16, dtype))
    x = torch.randn(1, length, 32, 64, device="cuda", dtype=dtype)
    whole, last = ssd(x, dt, a, b, c, impl="triton")
    _, state = ssd(x[:, :cut], dt[:, :cut], a, b[:, :cut], c[:, :cut], impl="triton")
    assert state is not None
    x, dt, b, c = (v[:, cut:] for v in (x, dt, b, c))
    y, end = ssd(x, dt, a, b, c, initial_state=state, impl="triton")
    assert last is not None
    assert end is not None
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    assert relative_l2(whole[:, cut:], y.double()) < bound
    assert relative_l2(last, end.double()) < bound
    x, dt, a, b, c = (v.double() for v in (x, dt, a, b, c))
    truth, _ = ssd(x, dt, a, b, c, initial_state=state.double(), impl="chunk")
    assert relative_l2(y, truth) < bound


@needs_gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_graph_holds_it_whole():
    args = [v.cuda().requires_grad_() for v in inputs(2, 200, 4, 16, 2, 16)]

    def loss(*tensors):
        y, last = ssd(*tensors[:5], D=tensors[5])
        assert last is not None
        return (y**2).sum() + last.sum()

    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*args), args)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_auto_takes_it_and_says_why_not():
    x, dt, a, b, c, _ = (v.cuda() for v in inputs(1, 32, 2, 16, 1, 16))
    torch.testing.assert_close(ssd(x, dt, a, b, c)[0], ssd(x, dt, a, b, c, impl="triton")[0])
    with pytest.raises(ValueError, match="fp32 or less"):
        ssd(x.double(), dt.double(), a.double(), b.double(), c.double(), impl="triton")


@pytest.mark.skipif(HAS_GPU, reason="a GPU is there")
def test_a_cpu_is_told_why_not():
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        ssd(*inputs(1, 8, 2, 3, 1, 5)[:5], impl="triton")
