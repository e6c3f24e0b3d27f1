"""The gated delta rule in all its forms, with a decay per head (Gated DeltaNet) and per channel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from braidlm.arch.mixers.kda import LEAF
from braidlm.ops.gated_delta import gated_delta
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

H, D, DV = 4, 5, 3
DECAYS = ("head", "channel")


def inputs(
    batch: int, length: int, groups: int, decay: str, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """q, k, v, g, beta in the range of trained models; beta goes up to 2."""
    q, k = F.normalize(torch.randn(2, batch, length, groups, D, dtype=dtype), dim=-1)
    v = torch.randn(batch, length, H, DV, dtype=dtype)
    shape = (batch, length, H) if decay == "head" else (batch, length, H, D)
    g = -F.softplus(torch.randn(shape, dtype=dtype) - 1)
    beta = 2 * torch.sigmoid(torch.randn(batch, length, H, dtype=dtype))
    return [x.clone().requires_grad_() for x in (q, k, v, g, beta)]


def forms(args, segments, state, chunk, impls=("chunk", "naive"), **fields: Any):
    """Callables that give (outputs at real tokens, final state) of the same call."""

    def one(impl):
        y, final = gated_delta(
            *args,
            **{"chunk_size": chunk, "segments": segments, "initial_state": state} | fields,
            impl=impl,
        )
        return only_real(y, segments), final

    return [lambda impl=impl: one(impl) for impl in impls]


def check_forms(length, chunk, groups, has_state, layout, decay, **fields: Any):
    segments = layouts(length, 16)[layout]
    args = inputs(2, length, groups, decay)
    state = leaf(2 if segments is None else segments.n_docs, H, D, DV) if has_state else None
    ours, truth = forms(args, segments, state, chunk, **fields)
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


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("length", "chunk", "groups", "has_state", "layout"), FAST)
def test_chunk_is_naive(length, chunk, groups, has_state, layout, decay):
    check_forms(length, chunk, groups, has_state, layout, decay)


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("length", "layout"), every_layout((1, 63, 65, 200)))
@pytest.mark.parametrize(("has_state", "groups"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("chunk", [1, 17, 64])
def test_chunk_is_naive_everywhere(length, chunk, groups, has_state, layout, decay):
    check_forms(length, chunk, groups, has_state, layout, decay)


@pytest.mark.parametrize("decay", DECAYS)
def test_the_scale_is_the_factor_on_the_queries(decay):
    check_forms(20, 8, 2, True, "rows", decay, scale=0.3)
    args = inputs(1, 20, 2, decay)
    plain, _ = gated_delta(*args)
    scaled, _ = gated_delta(*args, scale=0.3)
    assert_near(scaled, plain * 0.3 * D**0.5)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("groups", [2, 4])
def test_step_is_naive(decay, groups):
    args, state = inputs(3, 1, groups, decay), leaf(3, H, D, DV)
    ours, truth = forms(args, None, state, 64, ("step", "naive"), scale=0.7)
    assert_same(ours, truth, [*args, state])
    ours, truth = forms(args, None, None, 64, ("step", "naive"))
    assert_same(ours, truth, args)
    alone, _ = gated_delta(*args, initial_state=state, return_state=False)
    assert_near(alone, gated_delta(*args, initial_state=state, impl="naive")[0])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_gradcheck(impl, decay):
    args = [v.detach()[..., :2].requires_grad_() for v in inputs(1, 5, 2, decay)]
    args[3] = inputs(1, 5, 2, decay)[3][..., : 2 if decay == "channel" else H].detach()
    args[4] = inputs(1, 5, 2, decay)[4].detach()
    args = [v.requires_grad_() for v in args]
    segments = Segments.from_doc_ids(torch.tensor([[0, 1, 1, -1, 2]]))
    state = leaf(3, H, 2, 2)

    def form(*tensors):
        y, final = gated_delta(
            *tensors[:5], chunk_size=2, segments=segments, initial_state=tensors[5], impl=impl
        )
        assert final is not None
        return only_real(y, segments), final

    assert torch.autograd.gradcheck(form, (*args, state), fast_mode=True)


def test_naive_is_the_recurrence_written_by_hand():
    """Two orthogonal keys, the first written twice: the second write moves half way."""
    k = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2)
    v = torch.tensor([4.0, 10.0, 8.0]).view(1, 3, 1, 1)
    g = torch.tensor([0.0, 0.5, 0.25]).log().view(1, 3, 1)
    beta = torch.tensor([1.0, 1.0, 0.5]).view(1, 3, 1)
    q = torch.ones(1, 3, 1, 2)
    y, state = gated_delta(q, k, v, g, beta, scale=2.0, impl="naive")
    # 4; then 4 / 2 beside 10; then a quarter of each, and half of the way from 0.5 to 8.
    expected = [4.0, 2.0 + 10.0, 0.5 + 0.5 * 7.5 + 2.5]
    torch.testing.assert_close(y.flatten(), 2 * torch.tensor(expected))
    assert state is not None
    torch.testing.assert_close(state.flatten(), torch.tensor([4.25, 2.5]))
    each = torch.stack((g, torch.zeros_like(g)), dim=-1)  # only the first channel forgets
    _, state = gated_delta(q, k, v, each, beta, impl="naive")
    assert state is not None
    torch.testing.assert_close(state.flatten(), torch.tensor([4.25, 10.0]))


def test_one_decay_for_all_channels_is_a_decay_per_head():
    args = inputs(2, 40, 2, "head")
    state = leaf(2, H, D, DV)
    per_channel = [*args[:3], args[3][..., None].expand(*args[3].shape, D), args[4]]
    by_head, _ = forms(args, None, state, 16)
    by_channel, _ = forms(per_channel, None, state, 16)
    assert_same(by_channel, by_head, [*args, state])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("length", "t"), [(10, 4), (64, 63), (65, 64), (200, 70), (333, 256)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_future_leaves_the_past_bit_identical(length, t, is_packed, decay):
    args = [v.detach() for v in inputs(2, length, 2, decay, torch.float32)]
    segments = None
    if is_packed:
        segments = Segments.from_lengths([[3, length - 3], [length - 1, 1]], length)
    before, _ = gated_delta(*args, chunk_size=64, segments=segments)
    changed = [v.clone() for v in args]
    for v in changed:
        v[:, t] = v[:, t] * 5 - 3 * v[:, t].abs()
    after, _ = gated_delta(*changed, chunk_size=64, segments=segments)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("length", [65, 130])
def test_strong_decay_gives_finite_values_and_gradients(length, decay):
    args = [v.detach() for v in inputs(1, length, 1, decay, torch.float32)]
    args[3][:, 10:20] = -1e30
    args[3][:, 30] = 0.0
    args[3][:, :, 1] = -1e4
    args[3][:, 40:44, 2] = -80.0
    args = [v.requires_grad_() for v in args]
    state = leaf(1, H, D, DV, dtype=torch.float32)
    ours, truth = (with_gradients(f, [*args, state]) for f in forms(args, None, state, 32))
    for a, b in zip(ours, truth, strict=True):
        assert bool(a.isfinite().all())
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decay", DECAYS)
def test_decay_after_a_reset_keeps_its_precision(decay):
    args = [v.detach() for v in inputs(1, 64, 1, decay, torch.float32)]
    args[3][:, 10] = -1e9
    ours, truth = (form()[0] for form in forms(args, None, None, 64))
    assert relative_l2(ours[:, 11:], truth[:, 11:].double()) < 2e-4


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_prefill_and_steps_are_the_full_call_at_every_split(impl, decay):
    args = [v.detach() for v in inputs(2, 17, 2, decay)]
    full, last = gated_delta(*args, chunk_size=4, impl=impl)
    for split in range(1, 17):
        y, state = gated_delta(*(v[:, :split] for v in args), chunk_size=4, impl=impl)
        pieces = [y]
        for t in range(split, 17):
            y, state = gated_delta(*(v[:, t : t + 1] for v in args), initial_state=state)
            pieces.append(y)
        assert_near(torch.cat(pieces, 1), full)
        assert_near(state, last)


@pytest.mark.parametrize("decay", DECAYS)
def test_segments_with_carried_state_are_one_long_sequence(decay):
    args = inputs(2, 50, 2, decay)

    def whole():
        return gated_delta(*args, chunk_size=8)

    def carried():
        state, pieces = None, []
        for a, b in ((0, 7), (7, 31), (31, 50)):
            y, state = gated_delta(*(v[:, a:b] for v in args), chunk_size=8, initial_state=state)
            pieces.append(y)
        return torch.cat(pieces, 1), state

    assert_same(carried, whole, args)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("layout", ["packed", "edges", "padded"])
def test_packed_is_separate(layout, decay):
    segments = layouts(70, 16)[layout]
    assert segments is not None
    args = inputs(2, 70, 2, decay)
    state = leaf(segments.n_docs, H, D, DV)

    def packed():
        y, final = gated_delta(*args, chunk_size=16, segments=segments, initial_state=state)
        return y[segments.is_real], final

    def separate():
        ys, finals = [], []
        for d, (row, start, n) in enumerate(segments.spans):
            part = [v[row : row + 1, start : start + n] for v in args]
            y, final = gated_delta(*part, chunk_size=16, initial_state=state[d : d + 1])
            ys.append(y[0])
            finals.append(final)
        return torch.cat(ys), torch.cat(finals)

    assert_same(packed, separate, [*args, state])


@pytest.mark.parametrize("decay", DECAYS)
def test_padding_reaches_no_document_whatever_it_holds(decay):
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    args = [v.detach() for v in inputs(2, 65, 1, decay, torch.float32)]
    y, state = gated_delta(*args, chunk_size=16, segments=segments)
    noisy = [v.clone() for v in args]
    for i, value in enumerate((1e4, 1e4, 1e4, -1e4, 1e4)):
        noisy[i][~segments.is_real] = value
    y2, state2 = gated_delta(*noisy, chunk_size=16, segments=segments)
    assert torch.equal(only_real(y, segments), only_real(y2, segments))
    assert_near(state, state2, EXACT)
    assert bool(y2.isfinite().all())


@pytest.mark.parametrize("decay", DECAYS)
def test_bf16_stays_near_fp64(decay):
    base = [v.detach() for v in inputs(2, 200, 2, decay, torch.float32)]
    quantised = [v.bfloat16().requires_grad_() if i < 3 else v for i, v in enumerate(base)]
    exact = [v.detach().double().requires_grad_() for v in quantised]
    quantised = [v.requires_grad_() for v in quantised]
    state = torch.randn(2, H, D, DV).requires_grad_()
    exact_state = state.detach().double().requires_grad_()
    ours = with_gradients(lambda: gated_delta(*quantised, initial_state=state), [*quantised, state])
    truth = with_gradients(
        lambda: gated_delta(*exact, initial_state=exact_state), [*exact, exact_state]
    )
    assert ours[0].dtype == torch.bfloat16
    assert ours[1].dtype == torch.float32
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["gated_delta"], errors


def pair_flops(chunk: int, by_channel: bool, groups: int) -> int:
    """Products of keys and of queries with keys inside a chunk."""
    if not by_channel:
        return 4 * chunk * chunk * groups * D
    if chunk <= LEAF:
        return 4 * chunk * chunk * H * D
    early = chunk // 2
    halves = sum(pair_flops(n, True, groups) for n in (early, chunk - early))
    return halves + 4 * early * (chunk - early) * H * D


def matmul_flops(length, chunk, groups, decay, return_state) -> tuple[int, int]:
    """Forward and backward FLOPs of two rows from nothing, by the operator's README."""
    chunk = min(chunk, length)
    n = -(-length // chunk)
    scores = n * pair_flops(chunk, decay == "channel", groups)
    inside = n * 2 * chunk * chunk * H * (2 * DV + (D if n > 1 else 0))
    state = 2 * chunk * H * D * DV
    read = (2 * n - 1 if n > 1 else 0) * state
    forward = scores + inside + (n - 1) * state + read
    backward = 2 * forward + n * 2 * chunk**3 * H
    return 2 * (forward + return_state * state), 2 * backward


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(
    ("length", "chunk", "groups", "return_state"),
    [(40, 64, 1, False), (64, 64, 1, True), (100, 16, 2, False), (100, 16, 4, True)],
)
def test_matmul_flops_are_predicted_exactly(length, chunk, groups, return_state, decay):
    args = inputs(2, length, groups, decay, torch.float32)
    with FlopCounterMode(display=False) as counter:
        y, _ = gated_delta(*args, chunk_size=chunk, return_state=return_state)
        forward = counter.get_total_flops()
        y.sum().backward()
    predicted = matmul_flops(length, chunk, groups, decay, return_state)
    assert (forward, counter.get_total_flops() - forward) == predicted


def test_an_independent_form_with_whole_transition_matrices_agrees():
    """Products of D x D matrices (I - beta k k^T) Diag(alpha): no chunks, no triangular system."""
    args = inputs(1, 30, 4, "channel")
    q, k, v, g, beta = args

    def by_transitions():
        outputs = []
        for h in range(H):
            total = torch.zeros(D, DV, dtype=torch.float64)
            for t in range(30):
                key = k[0, t, h]
                correct = torch.eye(D, dtype=torch.float64) - beta[0, t, h] * key[:, None] * key
                total = correct @ torch.diag(g[0, t, h].exp()) @ total
                total = total + beta[0, t, h] * torch.outer(key, v[0, t, h])
                outputs.append(q[0, t, h] @ total / D**0.5)
        return (torch.stack(outputs).view(H, 30, DV).transpose(0, 1)[None],)

    assert_same(lambda: gated_delta(*args, chunk_size=7, return_state=False), by_transitions, args)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"k": torch.zeros(2, 3, 4)}, "k has shape"),
        ({"q": torch.zeros(2, 3, 2, 4)}, "q has shape"),
        ({"v": torch.zeros(2, 4, H, DV)}, "v has shape"),
        ({"g": torch.zeros(2, 3, 3)}, "g has shape"),
        ({"g": torch.zeros(2, 3, H, D + 1)}, "g has shape"),
        ({"beta": torch.zeros(2, 3)}, "beta has shape"),
        ({"k": torch.zeros(2, 3, 3, D)}, "H=4"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"initial_state": torch.zeros(1, H, D, DV)}, "initial_state has shape"),
        ({"segments": Segments.from_lengths([[3]])}, "segments has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, word):
    names = ("q", "k", "v", "g", "beta")
    call = dict(zip(names, inputs(2, 3, 2, "head", torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=word):
        gated_delta(**call)
