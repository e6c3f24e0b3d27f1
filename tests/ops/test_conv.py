from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from braidlm.errors import InputError
from braidlm.ops import conv
from braidlm.ops.conv import causal_conv
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
from tests.tolerances import BF16_L2, FORMS_FP32

D = 5


def check_forms(length, width, has_state, layout, activation, has_bias=True):
    segments = layouts(length, 16)[layout]
    x, weight, bias = leaf(2, length, D), leaf(D, width), leaf(D) if has_bias else None
    n_docs = 2 if segments is None else segments.n_docs
    state = leaf(n_docs, width - 1, D) if has_state else None
    given = [v for v in (x, weight, bias, state) if v is not None]

    def form(impl):
        y, final = causal_conv(
            x,
            weight,
            bias,
            activation=activation,
            segments=segments,
            initial_state=state,
            impl=impl,
        )
        return only_real(y, segments), final

    assert_same(lambda: form("auto"), lambda: form("naive"), given)


@pytest.mark.parametrize(
    ("length", "width", "has_state", "layout", "activation"),
    [
        (1, 4, True, "rows", "silu"),
        (2, 4, True, "rows", None),
        (63, 4, False, "rows", "silu"),
        (65, 4, True, "packed", "silu"),
        (65, 3, True, "edges", None),
        (65, 4, True, "padded", "silu"),
        (20, 1, True, "rows", "silu"),
        (3, 6, False, "rows", None),
    ],
)
def test_fast_is_naive(length, width, has_state, layout, activation):
    check_forms(length, width, has_state, layout, activation, has_bias=activation is not None)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "layout"), every_layout((1, 63, 65, 200)))
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_fast_is_naive_everywhere(length, width, has_state, layout):
    check_forms(length, width, has_state, layout, "silu")


def test_torch_conv1d_agrees():
    x, weight, bias = leaf(2, 30, D), leaf(D, 4), leaf(D)

    def judge():
        columns = F.pad(x.transpose(1, 2), (3, 0))
        return (F.silu(F.conv1d(columns, weight[:, None], bias, groups=D)).transpose(1, 2),)

    def ours():
        return (causal_conv(x, weight, bias, activation="silu", return_state=False)[0],)

    assert_same(ours, judge, [x, weight, bias])


def test_fp32_is_naive():
    x, weight, bias = (leaf(*s, dtype=torch.float32) for s in ((2, 70, 64), (64, 4), (64,)))
    segments = Segments.from_lengths([[1, 2, 60], [70]], 70)
    for layout in (None, segments):

        def form(impl, layout=layout):
            y, state = causal_conv(x, weight, bias, segments=layout, impl=impl)
            return only_real(y, layout), state

        inputs = [x, weight, bias]
        assert_same(lambda f=form: f("auto"), lambda f=form: f("naive"), inputs, FORMS_FP32)


def test_gradcheck():
    segments = Segments.from_doc_ids(torch.tensor([[0, 1, 1, -1, 2]]))

    def form(x, weight, bias, state):
        y, final = causal_conv(
            x, weight, bias, activation="silu", segments=segments, initial_state=state
        )
        assert final is not None
        return only_real(y, segments), final

    args = (leaf(1, 5, 2), leaf(2, 3), leaf(2), leaf(3, 2, 2))
    assert torch.autograd.gradcheck(form, args)


@pytest.mark.parametrize("t", [0, 1, 100, 199])
def test_the_future_leaves_the_past_bit_identical(t):
    x, weight, bias = torch.randn(2, 200, 16), torch.randn(16, 4), torch.randn(16)
    before, _ = causal_conv(x, weight, bias, activation="silu")
    changed = x.clone()
    changed[:, t] = 1e3
    after, _ = causal_conv(changed, weight, bias, activation="silu")
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])
    assert torch.equal(before[:, t + 4 :], after[:, t + 4 :])


def test_prefill_and_steps_are_the_full_call_at_every_split():
    x, weight, bias = torch.randn(2, 17, D).double(), leaf(D, 4).detach(), leaf(D).detach()
    full, last = causal_conv(x, weight, bias, activation="silu")
    for split in range(1, 17):
        y, state = causal_conv(x[:, :split], weight, bias, activation="silu")
        pieces = [y]
        for t in range(split, 17):
            y, state = causal_conv(
                x[:, t : t + 1], weight, bias, activation="silu", initial_state=state
            )
            pieces.append(y)
        assert_near(torch.cat(pieces, 1), full)
        assert_near(state, last)


@pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 30), (0, 11, 12, 30)])
def test_segments_with_carried_state_are_one_long_sequence(cuts):
    x, weight, bias = leaf(2, 30, D), leaf(D, 4), leaf(D)

    def carried():
        state, pieces = None, []
        for a, b in itertools.pairwise(cuts):
            y, state = causal_conv(x[:, a:b], weight, bias, initial_state=state)
            pieces.append(y)
        return torch.cat(pieces, 1), state

    assert_same(carried, lambda: causal_conv(x, weight, bias), [x, weight, bias])


@pytest.mark.parametrize("layout", ["packed", "edges", "padded"])
def test_packed_is_separate(layout):
    segments = layouts(70, 16)[layout]
    assert segments is not None
    x, weight, bias, state = leaf(2, 70, D), leaf(D, 4), leaf(D), leaf(segments.n_docs, 3, D)

    def packed():
        y, final = causal_conv(x, weight, bias, segments=segments, initial_state=state)
        return y[segments.is_real], final

    def separate():
        ys, finals = [], []
        for d, (row, start, n) in enumerate(segments.spans):
            part = x[row : row + 1, start : start + n]
            y, final = causal_conv(part, weight, bias, initial_state=state[d : d + 1])
            ys.append(y[0])
            finals.append(final)
        return torch.cat(ys), torch.cat(finals)

    assert_same(packed, separate, [x, weight, bias, state])


def test_not_even_an_infinity_reaches_the_next_document():
    segments = Segments.from_lengths([[4, 4]])
    x = torch.randn(1, 8, D)
    weight = torch.randn(D, 4)
    first, first_state = causal_conv(x, weight, None, segments=segments)
    x[0, :4] = torch.inf
    loud, loud_state = causal_conv(x, weight, None, segments=segments)
    assert torch.equal(loud[0, 4:], first[0, 4:])
    assert not bool(loud[0, :4].isfinite().any())
    assert first_state is not None
    assert loud_state is not None
    assert torch.equal(loud_state[1], first_state[1])


def test_bf16_stays_near_fp64():
    quantised = [leaf(*s, dtype=torch.bfloat16) for s in ((2, 300, 64), (64, 4), (64,))]
    exact = [v.detach().double().requires_grad_() for v in quantised]
    ours = with_gradients(lambda: causal_conv(*quantised, activation="silu"), quantised)
    truth = with_gradients(lambda: causal_conv(*exact, activation="silu"), exact)
    assert ours[1].dtype == torch.float32
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["conv"], errors


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"x": torch.zeros(2, 3)}, "x has shape"),
        ({"x": torch.zeros(2, 3, 4)}, "x has shape"),
        ({"bias": torch.zeros(4)}, "bias has shape"),
        ({"initial_state": torch.zeros(2, 4, D)}, "initial_state has shape"),
        ({"activation": "gelu"}, "gelu"),
        ({"impl": "fft"}, "fft"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    call = {"x": torch.zeros(2, 3, D), "weight": torch.zeros(D, 4), "bias": None} | change
    with pytest.raises(ValueError, match=word) as caught:
        causal_conv(**call)
    assert isinstance(caught.value, InputError) == (set(change) <= {"activation", "impl"})


@pytest.mark.parametrize(("length", "width"), [(1, 4), (3, 6), (65, 4), (65, 1)])
def test_the_form_for_compiled_code_is_the_same_function(length, width):
    given = [leaf(2, length, D), leaf(D, width), leaf(D)]
    for segments in layouts(length, 16).values():

        def form(function, segments=segments):
            return only_real(function(*given, segments, None, True), segments), None

        assert_same(lambda: form(conv._shifted), lambda: form(conv._naive), given)


def test_the_form_for_compiled_code_is_left_to_it():
    x, weight = torch.ones(1, 3, D), torch.ones(D, 2)
    with pytest.raises(InputError, match="'shifted' of conv cannot run here: it is fast only"):
        causal_conv(x, weight, None, impl="shifted")
    with pytest.raises(InputError, match="'shifted' of conv cannot run here: it starts from zer"):
        causal_conv(x, weight, None, initial_state=torch.ones(1, 1, D), impl="shifted")
