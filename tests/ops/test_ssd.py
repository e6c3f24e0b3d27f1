from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from braidlm.ops.ssd import ssd
from braidlm.segments import Segments
from tests.ops.compare import (
    assert_near,
    assert_same,
    every_layout,
    layouts,
    leaf,
    only_real,
    relative_l2,
    with_gradients,
)
from tests.tolerances import BF16_L2, EXACT

H, P, N = 4, 3, 5


def inputs(batch: int, length: int, groups: int, dtype=torch.float64) -> list[Tensor]:
    """x, dt, A, B, C with rates and steps in the range of trained models."""
    x = torch.randn(batch, length, H, P, dtype=dtype)
    dt = F.softplus(torch.randn(batch, length, H, dtype=dtype) - 1)
    a = -torch.rand(H, dtype=dtype) * 8
    b, c = torch.randn(2, batch, length, groups, N, dtype=dtype)
    return [v.clone().requires_grad_() for v in (x, dt, a, b, c)]


def forms(args, segments, state, chunk, impls=("chunk", "naive")):
    """Two callables that give (outputs at real tokens, final state) of the same call."""

    def one(impl):
        y, final = ssd(*args, chunk_size=chunk, segments=segments, initial_state=state, impl=impl)
        return only_real(y, segments), final

    return [lambda impl=impl: one(impl) for impl in impls]


def check_forms(length, chunk, groups, has_state, layout):
    segments = layouts(length, 16)[layout]
    args = inputs(2, length, groups)
    state = leaf(2 if segments is None else segments.n_docs, H, P, N) if has_state else None
    ours, truth = forms(args, segments, state, chunk)
    assert_same(ours, truth, args + ([] if state is None else [state]))


FAST = [
    (1, 64, 1, True, "rows"),
    (63, 16, 2, True, "rows"),
    (65, 64, 1, False, "rows"),
    (65, 16, 2, True, "packed"),
    (65, 16, 1, True, "edges"),
    (65, 16, 2, True, "padded"),
    (63, 64, 4, True, "padded"),
    (70, 16, 2, False, "packed"),
]


@pytest.mark.parametrize(("length", "chunk", "groups", "has_state", "layout"), FAST)
def test_chunk_is_naive(length, chunk, groups, has_state, layout):
    check_forms(length, chunk, groups, has_state, layout)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "layout"), every_layout((1, 63, 65, 200)))
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("chunk", [1, 8, 16, 17, 64])
def test_chunk_is_naive_everywhere(length, chunk, groups, has_state, layout):
    check_forms(length, chunk, groups, has_state, layout)


def test_step_is_naive():
    args, state = inputs(3, 1, 2), leaf(3, H, P, N)
    ours, truth = forms(args, None, state, 64, ("step", "naive"))
    assert_same(ours, truth, [*args, state])
    ours, truth = forms(args, None, None, 64, ("step", "naive"))
    assert_same(ours, truth, args)


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_gradcheck(impl):
    args = inputs(1, 5, 2)
    args[0], args[3], args[4] = leaf(1, 5, H, 2), leaf(1, 5, 2, 2), leaf(1, 5, 2, 2)
    segments = Segments.from_doc_ids(torch.tensor([[0, 1, 1, -1, 2]]))
    state = leaf(3, H, 2, 2)

    def form(*tensors):
        y, final = ssd(
            *tensors[:5], chunk_size=2, segments=segments, initial_state=tensors[5], impl=impl
        )
        assert final is not None
        return only_real(y, segments), final

    assert torch.autograd.gradcheck(form, (*args, state), fast_mode=True)


def test_naive_is_the_recurrence_written_by_hand():
    x = torch.tensor([[[[1.0]], [[2.0]], [[3.0]]]])
    dt = torch.tensor([[[0.5], [1.0], [2.0]]])
    ones = torch.ones(1, 3, 1, 1)
    y, state = ssd(x, dt, torch.tensor([-1.0]), ones, 2 * ones, impl="naive")
    e = torch.tensor([1.0, 2.0]).neg().exp()
    s1 = 0.5
    s2 = e[0] * s1 + 2.0
    s3 = e[1] * s2 + 6.0
    torch.testing.assert_close(y.flatten(), 2 * torch.tensor([s1, float(s2), float(s3)]))
    assert state is not None
    torch.testing.assert_close(state.flatten(), torch.tensor([float(s3)]))


@pytest.mark.parametrize(("length", "t"), [(10, 4), (64, 63), (65, 64), (200, 70), (333, 256)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_future_leaves_the_past_bit_identical(length, t, is_packed):
    args = [v.detach() for v in inputs(2, length, 2, torch.float32)]
    segments = None
    if is_packed:
        segments = Segments.from_lengths([[3, length - 3], [length - 1, 1]], length)
    before, _ = ssd(*args, chunk_size=64, segments=segments)
    changed = [v.clone() for v in args]
    for i in (0, 1, 3, 4):
        changed[i][:, t] = changed[i][:, t] * 50 + 3
    after, _ = ssd(*changed, chunk_size=64, segments=segments)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("length", [65, 130])
def test_strong_decay_gives_finite_values_and_gradients(length):
    args = [v.detach() for v in inputs(1, length, 1, torch.float32)]
    args[1][:, 10:20] = 1e6
    args[1][:, 30] = 0.0
    args[2] = torch.tensor([-1e6, -1e-6, -30.0, -1.0])
    args = [v.requires_grad_() for v in args]
    state = leaf(1, H, P, N, dtype=torch.float32)
    for form in forms(args, None, state, 32):
        for result in with_gradients(form, [*args, state]):
            assert bool(result.isfinite().all())


def test_decay_after_a_reset_keeps_its_precision():
    args = [v.detach() for v in inputs(1, 64, 1, torch.float32)]
    args[1][:, 10] = 1e9
    ours, truth = (form()[0] for form in forms(args, None, None, 64))
    assert relative_l2(ours[:, 11:], truth[:, 11:].double()) < 2e-4


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_prefill_and_steps_are_the_full_call_at_every_split(impl):
    args = [v.detach() for v in inputs(2, 17, 2)]
    full, last = ssd(*args, chunk_size=4, impl=impl)
    for split in range(1, 17):
        head = [v if v.dim() == 1 else v[:, :split] for v in args]
        y, state = ssd(*head, chunk_size=4, impl=impl)
        pieces = [y]
        for t in range(split, 17):
            token = [v if v.dim() == 1 else v[:, t : t + 1] for v in args]
            y, state = ssd(*token, initial_state=state)
            pieces.append(y)
        assert_near(torch.cat(pieces, 1), full)
        assert_near(state, last)


def test_segments_with_carried_state_are_one_long_sequence():
    args = inputs(2, 50, 2)

    def whole():
        return ssd(*args, chunk_size=8)

    def carried():
        state, pieces = None, []
        for a, b in ((0, 7), (7, 31), (31, 50)):
            part = [v if v.dim() == 1 else v[:, a:b] for v in args]
            y, state = ssd(*part, chunk_size=8, initial_state=state)
            pieces.append(y)
        return torch.cat(pieces, 1), state

    assert_same(carried, whole, args)


@pytest.mark.parametrize("layout", ["packed", "edges", "padded"])
def test_packed_is_separate(layout):
    segments = layouts(70, 16)[layout]
    assert segments is not None
    args = inputs(2, 70, 2)
    state = leaf(segments.n_docs, H, P, N)

    def packed():
        y, final = ssd(*args, chunk_size=16, segments=segments, initial_state=state)
        return y[segments.is_real], final

    def separate():
        ys, finals = [], []
        for d, (row, start, n) in enumerate(segments.spans):
            part = [v if v.dim() == 1 else v[row : row + 1, start : start + n] for v in args]
            y, final = ssd(*part, chunk_size=16, initial_state=state[d : d + 1])
            ys.append(y[0])
            finals.append(final)
        return torch.cat(ys), torch.cat(finals)

    assert_same(packed, separate, [*args, state])


def test_padding_reaches_no_document_whatever_it_holds():
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    args = [v.detach() for v in inputs(2, 65, 1, torch.float32)]
    y, state = ssd(*args, chunk_size=16, segments=segments)
    noisy = [v.clone() for v in args]
    for i in (0, 1, 3, 4):
        noisy[i][~segments.is_real] = 1e4
    y2, state2 = ssd(*noisy, chunk_size=16, segments=segments)
    assert torch.equal(only_real(y, segments), only_real(y2, segments))
    assert_near(state, state2, EXACT)
    assert bool(y2.isfinite().all())


def test_bf16_stays_near_fp64():
    base = inputs(2, 200, 2, torch.float32)
    quantised = [
        v.detach().bfloat16().requires_grad_() if i in (0, 3, 4) else v.detach().requires_grad_()
        for i, v in enumerate(base)
    ]
    exact = [v.detach().double().requires_grad_() for v in quantised]
    state = torch.randn(2, H, P, N).requires_grad_()
    exact_state = state.detach().double().requires_grad_()
    ours = with_gradients(lambda: ssd(*quantised, initial_state=state), [*quantised, state])
    truth = with_gradients(lambda: ssd(*exact, initial_state=exact_state), [*exact, exact_state])
    assert ours[0].dtype == torch.bfloat16
    assert ours[1].dtype == torch.float32
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["ssd"], errors


def matmul_flops(length, chunk, groups, has_state, return_state) -> tuple[int, int]:
    """Forward and backward FLOPs of two rows, by the table of the operator's README."""
    chunk = min(chunk, length)
    blocks = 2 * -(-length // chunk)
    inside = 2 * blocks * chunk * chunk * (groups * N + H * P)
    state = 2 * blocks * chunk * H * P * N
    is_read = length > chunk or has_state
    forward = inside + state * (is_read + (is_read or return_state))
    return forward, 2 * (inside + 2 * state * is_read)


@pytest.mark.parametrize(
    ("length", "chunk", "groups", "has_state", "return_state"),
    [
        (40, 64, 1, False, False),
        (64, 64, 1, False, True),
        (100, 16, 2, False, False),
        (100, 16, 2, True, True),
    ],
)
def test_matmul_flops_are_predicted_exactly(length, chunk, groups, has_state, return_state):
    args = inputs(2, length, groups, torch.float32)
    state = leaf(2, H, P, N, dtype=torch.float32) if has_state else None
    with FlopCounterMode(display=False) as counter:
        y, _ = ssd(*args, chunk_size=chunk, initial_state=state, return_state=return_state)
        forward = counter.get_total_flops()
        y.sum().backward()
    predicted = matmul_flops(length, chunk, groups, has_state, return_state)
    assert (forward, counter.get_total_flops() - forward) == predicted


def test_an_independent_quadratic_form_agrees():
    """One T x T matrix per head, built from pairwise products of decays: no chunks, no state."""
    args = inputs(1, 30, 2)
    x, dt, a, b, c = args

    def quadratic():
        decay = torch.exp(a * dt)
        rows = []
        for t, s in itertools.product(range(30), repeat=2):
            rows.append(decay[0, s + 1 : t + 1].prod(0) if s <= t else torch.zeros_like(a))
        mask = torch.stack(rows).view(30, 30, H)
        scores = torch.einsum("tgn,sgn->tsg", c[0], b[0]).repeat_interleave(H // 2, dim=2)
        return (torch.einsum("tsh,tsh,sh,shp->thp", mask, scores, dt[0], x[0])[None],)

    assert_same(lambda: ssd(*args, chunk_size=7, return_state=False), quadratic, args)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"x": torch.zeros(2, 3, 4)}, "x has shape"),
        ({"dt": torch.zeros(2, 3, 3)}, "dt has shape"),
        ({"A": torch.zeros(3)}, "A has shape"),
        ({"C": torch.zeros(2, 3, 2, 4)}, "C has shape"),
        ({"B": torch.zeros(2, 3, 3, 5)}, "H=4"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"initial_state": torch.zeros(1, H, P, N)}, "initial_state has shape"),
        ({"segments": Segments.from_lengths([[3]])}, "segments has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, word):
    names = ("x", "dt", "A", "B", "C")
    call = dict(zip(names, inputs(2, 3, 2, torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=word):
        ssd(**call)


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_what_goes_past_the_state_is_added(impl):
    x, dt, a, b, c = inputs(2, 5, 2)
    d = leaf(H)

    def judge():
        y, last = ssd(x, dt, a, b, c, impl="naive")
        return y + d[:, None] * x, last

    assert_same(lambda: ssd(x, dt, a, b, c, D=d, impl=impl), judge, [x, dt, a, b, c, d])
    with pytest.raises(ValueError, match=r"D has shape \(3,\); it must be \(4,\)"):
        ssd(x, dt, a, b, c, D=leaf(3), impl=impl)
