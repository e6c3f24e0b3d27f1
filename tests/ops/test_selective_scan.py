from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from braidlm.ops.selective_scan import selective_scan
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

WIDTH, N = 6, 5
NARROW = (0, 3, 4)
"""Places of x, B and C, which may be bf16, among x, dt, A, B, C, D."""
PER_TOKEN = (0, 1, 3, 4)


def inputs(batch: int, length: int, dtype=torch.float64) -> list[Tensor]:
    """x, dt, A, B, C, D with rates and steps in the range of trained models."""
    x = torch.randn(batch, length, WIDTH, dtype=dtype)
    dt = F.softplus(torch.randn(batch, length, WIDTH, dtype=dtype) - 1)
    a = -torch.rand(WIDTH, N, dtype=dtype) * 8
    b, c = torch.randn(2, batch, length, N, dtype=dtype)
    return [v.clone().requires_grad_() for v in (x, dt, a, b, c, torch.randn(WIDTH, dtype=dtype))]


def part(args: list[Tensor], columns: slice, rows: slice = slice(None)) -> list[Tensor]:
    return [v[rows, columns] if i in PER_TOKEN else v for i, v in enumerate(args)]


def forms(args, segments, state, chunk, impls=("chunk", "naive")):
    """Two callables that give (outputs at real tokens, final state) of the same call."""

    def one(impl):
        y, final = selective_scan(
            *args, chunk_size=chunk, segments=segments, initial_state=state, impl=impl
        )
        return only_real(y, segments), final

    return [lambda impl=impl: one(impl) for impl in impls]


def check_forms(length, chunk, has_state, layout):
    segments = layouts(length, 16)[layout]
    args = inputs(2, length)
    state = leaf(2 if segments is None else segments.n_docs, WIDTH, N) if has_state else None
    ours, truth = forms(args, segments, state, chunk)
    assert_same(ours, truth, args + ([] if state is None else [state]))


FAST = [
    (1, 64, True, "rows"),
    (63, 16, True, "rows"),
    (65, 64, False, "rows"),
    (65, 16, True, "packed"),
    (65, 16, True, "edges"),
    (65, 7, True, "padded"),
    (63, 64, False, "padded"),
    (70, 16, False, "packed"),
]


@pytest.mark.parametrize(("length", "chunk", "has_state", "layout"), FAST)
def test_chunk_is_naive(length, chunk, has_state, layout):
    check_forms(length, chunk, has_state, layout)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "layout"), every_layout((1, 63, 65, 200)))
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("chunk", [1, 8, 16, 17, 64])
def test_chunk_is_naive_everywhere(length, chunk, has_state, layout):
    check_forms(length, chunk, has_state, layout)


def test_step_is_naive():
    args, state = inputs(3, 1), leaf(3, WIDTH, N)
    ours, truth = forms(args, None, state, 64, ("step", "naive"))
    assert_same(ours, truth, [*args, state])
    ours, truth = forms(args, None, None, 64, ("step", "naive"))
    assert_same(ours, truth, args)


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_gradcheck(impl):
    args = inputs(1, 5)
    segments = Segments.from_doc_ids(torch.tensor([[0, 1, 1, -1, 2]]))
    state = leaf(3, WIDTH, N)

    def form(*tensors):
        y, final = selective_scan(
            *tensors[:6], chunk_size=2, segments=segments, initial_state=tensors[6], impl=impl
        )
        assert final is not None
        return only_real(y, segments), final

    assert torch.autograd.gradcheck(form, (*args, state), fast_mode=True)


def test_naive_is_the_recurrence_written_by_hand():
    """One channel with two columns: rates 1 and 3, steps 0.5, 1, 2, inputs 1, 2, 3."""
    x, dt = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    b, c = torch.tensor([[1.0, 2.0]] * 3), torch.tensor([[5.0, 7.0]] * 3)
    y, state = selective_scan(
        x.view(1, 3, 1), dt.view(1, 3, 1), torch.tensor([[-1.0, -3.0]]), b[None], c[None],
        torch.tensor([10.0]), impl="naive",
    )  # fmt: skip
    e = torch.tensor([1.0, 3.0])
    s1 = 0.5 * torch.tensor([1.0, 2.0])
    s2 = torch.exp(-e) * s1 + 2.0 * torch.tensor([1.0, 2.0])
    s3 = torch.exp(-2 * e) * s2 + 6.0 * torch.tensor([1.0, 2.0])
    outputs = [float(s @ c[0] + 10 * u) for s, u in zip((s1, s2, s3), x, strict=True)]
    torch.testing.assert_close(y.flatten(), torch.tensor(outputs))
    assert state is not None
    torch.testing.assert_close(state[0, 0], s3)


def test_an_independent_form_agrees():
    """No states at all: every pair of tokens with the product of the decays between them."""
    args = inputs(1, 20)
    x, dt, a, b, c, d = args

    def quadratic():
        decay = torch.exp(dt[0, :, :, None] * a)
        rows = []
        for t in range(20):
            reach = [decay[s + 1 : t + 1].prod(0) for s in range(t + 1)]
            gains = torch.einsum("sin,n,sn->si", torch.stack(reach), c[0, t], b[0, : t + 1])
            rows.append((gains * (dt * x)[0, : t + 1]).sum(0) + d * x[0, t])
        return (torch.stack(rows)[None],)

    assert_same(lambda: selective_scan(*args, chunk_size=7, return_state=False), quadratic, args)


def test_without_a_skip_nothing_goes_around_the_state():
    args = inputs(2, 20)
    plain = selective_scan(*args[:5], chunk_size=8)[0]
    silent = [*args[:5], torch.zeros_like(args[5])]
    assert_near(plain, selective_scan(*silent, impl="naive")[0])
    assert_near(plain + args[5] * args[0], selective_scan(*args, chunk_size=8)[0])


@pytest.mark.parametrize(("length", "t"), [(10, 4), (64, 63), (65, 64), (200, 70)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_future_leaves_the_past_bit_identical(length, t, is_packed):
    args = [v.detach() for v in inputs(2, length, torch.float32)]
    segments = None
    if is_packed:
        segments = Segments.from_lengths([[3, length - 3], [length - 1, 1]], length)
    before, _ = selective_scan(*args, segments=segments)
    changed = [v.clone() for v in args]
    for i in PER_TOKEN:
        changed[i][:, t] = changed[i][:, t] * 50 + 3
    after, _ = selective_scan(*changed, segments=segments)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


def test_strong_decay_gives_finite_values_and_gradients():
    args = [v.detach() for v in inputs(1, 65, torch.float32)]
    args[1][:, 10:20] = 1e6
    args[1][:, 30] = 0.0
    args[2][:, 0], args[2][:, 1], args[2][0] = -1e6, -1e-6, -30.0
    args = [v.requires_grad_() for v in args]
    state = leaf(1, WIDTH, N, dtype=torch.float32)
    for form in forms(args, None, state, 32):
        for result in with_gradients(form, [*args, state]):
            assert bool(result.isfinite().all())


def test_decay_after_a_reset_keeps_its_precision():
    args = [v.detach() for v in inputs(1, 64, torch.float32)]
    args[1][:, 10] = 1e9
    ours, truth = (form()[0] for form in forms(args, None, None, 64))
    assert relative_l2(ours[:, 11:], truth[:, 11:].double()) < 1e-5


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_prefill_and_steps_are_the_full_call_at_every_split(impl):
    args = [v.detach() for v in inputs(2, 17)]
    full, last = selective_scan(*args, chunk_size=4, impl=impl)
    for split in range(1, 17):
        y, state = selective_scan(*part(args, slice(split)), chunk_size=4, impl=impl)
        pieces = [y]
        for t in range(split, 17):
            y, state = selective_scan(*part(args, slice(t, t + 1)), initial_state=state)
            pieces.append(y)
        assert_near(torch.cat(pieces, 1), full)
        assert_near(state, last)


def test_segments_with_carried_state_are_one_long_sequence():
    args = inputs(2, 50)

    def carried():
        state, pieces = None, []
        for a, b in ((0, 7), (7, 31), (31, 50)):
            y, state = selective_scan(*part(args, slice(a, b)), chunk_size=8, initial_state=state)
            pieces.append(y)
        return torch.cat(pieces, 1), state

    assert_same(carried, lambda: selective_scan(*args, chunk_size=8), args)


@pytest.mark.parametrize("layout", ["packed", "edges", "padded"])
def test_packed_is_separate(layout):
    segments = layouts(70, 16)[layout]
    assert segments is not None
    args = inputs(2, 70)
    state = leaf(segments.n_docs, WIDTH, N)

    def packed():
        y, final = selective_scan(*args, segments=segments, initial_state=state)
        return y[segments.is_real], final

    def separate():
        ys, finals = [], []
        for d, (row, start, n) in enumerate(segments.spans):
            document = part(args, slice(start, start + n), slice(row, row + 1))
            y, final = selective_scan(*document, initial_state=state[d : d + 1])
            ys.append(y[0])
            finals.append(final)
        return torch.cat(ys), torch.cat(finals)

    assert_same(packed, separate, [*args, state])


def test_padding_reaches_no_document_whatever_it_holds():
    """Neither forward nor back: what is made of the outputs there moves no input but its own."""
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    args = [v.detach() for v in inputs(2, 65, torch.float32)]
    y, state = selective_scan(*args, segments=segments)
    noisy = [v.clone() for v in args]
    for i in PER_TOKEN:
        noisy[i][~segments.is_real] = 1e4
    noisy = [v.requires_grad_() for v in noisy]
    y2, state2 = selective_scan(*noisy, segments=segments)
    assert torch.equal(only_real(y, segments), only_real(y2, segments))
    assert_near(state, state2, EXACT)
    assert bool(y2.isfinite().all())
    y2[~segments.is_real].sum().backward()
    for i in PER_TOKEN:
        gradient = noisy[i].grad
        assert gradient is not None
        assert not gradient[segments.is_real].any()


def test_no_documents_at_all_leave_no_state():
    segments = Segments.from_doc_ids(torch.full((2, 5), -1))
    args = inputs(2, 5)
    y, state = selective_scan(*args, segments=segments, chunk_size=2)
    assert state is not None
    assert state.shape == (0, WIDTH, N)
    assert bool(y.isfinite().all())


def test_bf16_stays_near_fp64():
    quantised = [
        v.detach().bfloat16().requires_grad_() if i in NARROW else v
        for i, v in enumerate(inputs(2, 200, torch.float32))
    ]
    exact = [v.detach().double().requires_grad_() for v in quantised]
    state = leaf(2, WIDTH, N, dtype=torch.float32)
    exact_state = state.detach().double().requires_grad_()
    ours = with_gradients(
        lambda: selective_scan(*quantised, initial_state=state), [*quantised, state]
    )
    truth = with_gradients(
        lambda: selective_scan(*exact, initial_state=exact_state), [*exact, exact_state]
    )
    assert ours[0].dtype == torch.bfloat16
    assert ours[1].dtype == torch.float32
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["selective_scan"], errors


def test_autocast_changes_nothing_inside():
    args = [v.detach() for v in inputs(2, 40, torch.float32)]
    plain, _ = selective_scan(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, state = selective_scan(*args)
    assert torch.equal(plain, cast)
    assert state is not None
    assert state.dtype == torch.float32


@pytest.mark.parametrize("length", [1, 40, 64])
def test_matmul_flops_are_predicted_exactly(length):
    """Reading the state is one product; its gradients, and that of what was written, are three."""
    args = inputs(2, length, torch.float32)
    with FlopCounterMode(display=False) as counter:
        y, _ = selective_scan(*args, return_state=False)
        forward = counter.get_total_flops()
        y.sum().backward()
    read = 2 * 2 * length * WIDTH * N
    backward = 2 * read if length == 1 else 3 * read
    assert (forward, counter.get_total_flops() - forward) == (read, backward)


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that is made, and of all together."""

    largest = total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, list | tuple) else (out,):
            if isinstance(made, torch.Tensor):
                self.largest = max(self.largest, made.numel())
                self.total += made.numel()
        return out


def made(length: int) -> LargestTensor:
    args = inputs(2, length, torch.float32)
    with LargestTensor() as counter:
        y, _ = selective_scan(*args, chunk_size=8)
        y.sum().backward()
    return counter


def test_memory_is_that_of_a_chunk_and_work_is_linear():
    short, long = made(256), made(512)
    assert long.total <= 2.05 * short.total
    assert long.largest == 2 * 512 * WIDTH  # an input; all states would be N times that
    assert made(8).largest == 2 * 9 * WIDTH * N


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"z": torch.zeros(2, 4, WIDTH)}, "z has shape"),
        ({"dt_bias": torch.zeros(N)}, "dt_bias has shape"),
        ({"x": torch.zeros(2, 3, 4, 1)}, "x has shape"),
        ({"dt": torch.zeros(2, 3, 3)}, "dt has shape"),
        ({"A": torch.zeros(WIDTH)}, "A has shape"),
        ({"B": torch.zeros(2, 3, 4)}, "A has shape"),
        ({"C": torch.zeros(2, 2, N)}, "C has shape"),
        ({"D": torch.zeros(N)}, "D has shape"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"initial_state": torch.zeros(1, WIDTH, N)}, "initial_state has shape"),
        ({"segments": Segments.from_lengths([[3]])}, "segments has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, word):
    names = ("x", "dt", "A", "B", "C", "D")
    call = dict(zip(names, inputs(2, 3, torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=word):
        selective_scan(**call)
