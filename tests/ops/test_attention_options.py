"""Sink logits and capped scores, alone and with windows, grouped heads, packing and a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from braidlm.laws.flops import UNKNOWN_TO_TORCH
from braidlm.ops.attention import KVCache, attention
from braidlm.segments import Segments
from tests.ops.compare import (
    assert_near,
    assert_same,
    layouts,
    leaf,
    only_real,
    relative_l2,
    with_gradients,
)
from tests.ops.test_window import DV, HKV, HQ, Calls, D, inputs, ring, seen
from tests.tolerances import BF16_L2

CAP = 0.7
"""Low enough to bend scores of unit scale."""
OPTIONS = [(True, None), (False, CAP), (True, CAP)]


def logits() -> torch.Tensor:
    return leaf(HQ)


@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
@pytest.mark.parametrize(("window", "n_sinks"), [(None, 0), (5, 0), (64, 3)])
@pytest.mark.parametrize("impl", ["naive", "sdpa"])
def test_they_are_their_formula(has_sink, cap, window, n_sinks, impl):
    (q, k, v), sink = inputs(70), logits()

    def judge():
        wide = [x.repeat_interleave(2, dim=2) for x in (k, v)]
        scores = 0.3 * torch.einsum("bthd,bshd->bhts", q, wide[0])
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        weights = scores.exp() * seen(70, window or 70, n_sinks)
        total = weights.sum(-1, keepdim=True)
        total = total + sink.exp()[:, None, None] if has_sink else total
        return (torch.einsum("bhts,bshd->bthd", weights / total, wide[1]),)

    def ours():
        options: dict[str, Any] = {"window": window, "n_sinks": n_sinks, "softcap": cap}
        options["sink_logits"] = sink if has_sink else None
        return (attention(q, k, v, scale=0.3, impl=impl, **options)[0],)

    assert_same(ours, judge, [q, k, v, sink])


def check_forms(length, has_sink, cap, layout, window, n_sinks, past):
    segments = layouts(length, 16)[layout]
    given, sink, cache = inputs(length), logits(), None
    tensors = [*given, sink]
    if past is not None:
        n_docs = 2 if segments is None else segments.n_docs
        cache = ring([past[d % len(past)] for d in range(n_docs)], window or 1000, n_sinks)
        tensors += [cache.k, cache.v]

    def form(impl):
        o, new = attention(
            *given,
            segments=segments,
            cache=cache,
            window=window,
            n_sinks=n_sinks,
            sink_logits=sink if has_sink else None,
            softcap=cap,
            impl=impl,
        )
        assert new is not None
        return only_real(o, segments), new.k, new.v

    assert_same(lambda: form("sdpa"), lambda: form("naive"), tensors)


FORMS = [
    (1, "rows", None, 0, None),
    (63, "rows", None, 0, None),
    (65, "packed", None, 0, None),
    (65, "edges", 9, 2, None),
    (200, "padded", 64, 1, None),
    (200, "rows", 300, 0, None),
    (1, "rows", None, 0, (7, 3)),
    (65, "packed", None, 0, (9, 0, 4)),
    (1, "rows", 5, 2, (30, 30)),
    (1, "rows", 5, 2, (30, 4)),
    (65, "padded", 9, 2, (30, 4)),
]


@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
@pytest.mark.parametrize(("length", "layout", "window", "n_sinks", "past"), FORMS)
def test_sdpa_is_naive(length, layout, window, n_sinks, past, has_sink, cap):
    check_forms(length, has_sink, cap, layout, window, n_sinks, past)


@pytest.mark.slow
@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
@pytest.mark.parametrize(("window", "n_sinks"), [(None, 0), (64, 3)])
@pytest.mark.parametrize("past", [None, (300, 0, 17)])
def test_sdpa_is_naive_everywhere(has_sink, cap, window, n_sinks, past):
    for length in (63, 300):
        for layout in layouts(length, 16):
            check_forms(length, has_sink, cap, layout, window, n_sinks, past)


@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
@pytest.mark.parametrize("window", [None, 2])
def test_gradcheck(has_sink, cap, window):
    segments = Segments.from_doc_ids(torch.tensor([[0, 0, 0, -1, 1]]))

    def form(q, k, v, sink):
        sink = sink if has_sink else None
        return attention(q, k, v, segments=segments, window=window, sink_logits=sink, softcap=cap)[
            0
        ]

    shapes = [(1, 5, 2, 2), (1, 5, 1, 2), (1, 5, 1, 3), (2,)]
    assert torch.autograd.gradcheck(form, tuple(leaf(*shape) for shape in shapes))


def test_a_sink_of_minus_infinity_or_a_huge_cap_changes_nothing():
    given = inputs(40)
    plain = attention(*given)[0]
    none = torch.full((HQ,), -1e4, dtype=torch.float64)
    assert_near(attention(*given, sink_logits=none)[0], plain)
    assert_near(attention(*given, softcap=1e6)[0], plain)


def test_large_scores_stay_finite():
    q, k, v = (x.detach() for x in inputs(40, dtype=torch.float32))
    sink = torch.full((HQ,), 80.0)
    cases: list[dict[str, Any]] = [
        {"sink_logits": sink},
        {"softcap": 50.0},
        {"softcap": 50.0, "sink_logits": sink},
    ]
    for options in cases:
        found, _ = attention(1e3 * q, 1e3 * k, v, **options)
        assert bool(found.isfinite().all())


@pytest.mark.parametrize(("length", "t"), [(29, 16), (65, 64), (600, 300)])
@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
@pytest.mark.parametrize("window", [None, 7])
def test_the_future_leaves_the_past_bit_identical(length, t, has_sink, cap, window):
    given = [x.detach() for x in inputs(length, dtype=torch.float32)]
    options: dict[str, Any] = {"softcap": cap, "window": window}
    options["sink_logits"] = torch.randn(HQ) if has_sink else None
    before, _ = attention(*given, **options)
    changed = [x.clone() for x in given]
    for x in changed:
        x[:, t] = x[:, t] * 50 + 3
    after, _ = attention(*changed, **options)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
def test_bf16_stays_near_fp64(has_sink, cap):
    quantised = [*inputs(200, dtype=torch.bfloat16), leaf(HQ, dtype=torch.bfloat16)]
    exact = [x.detach().double().requires_grad_() for x in quantised]

    def form(given):
        sink = given[3] if has_sink else None
        return (attention(*given[:3], sink_logits=sink, softcap=cap, return_state=False)[0],)

    ours = with_gradients(lambda: form(quantised), quantised)
    truth = with_gradients(lambda: form(exact), exact)
    assert ours[0].dtype == torch.bfloat16
    *errors, of_sink = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["attention options"], errors
    assert of_sink < BF16_L2["sink logit"]


@pytest.mark.parametrize(("has_sink", "cap"), OPTIONS)
def test_no_tensor_has_an_entry_per_pair_of_tokens(has_sink, cap):
    """Not forward, not backward, and with a window the work is linear too."""
    found = {}
    for length in (512, 1024, 2048):
        for window in (None, 32):
            given = inputs(length, torch.float32, rows=1)
            sink = torch.randn(HQ, requires_grad=True) if has_sink else None
            counter = FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH)
            with Calls() as calls, counter:
                o, _ = attention(*given, window=window, sink_logits=sink, softcap=cap)
                o.sum().backward()
            assert calls.largest <= HQ * 256 * length
            found[length, window] = calls.largest, counter.get_total_flops()
    for small, middle, large in zip(*(found[n, 32] for n in (512, 1024, 2048)), strict=True):
        assert abs((large - middle) - 2 * (middle - small)) <= 0.1 * (large - middle)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sink_logits": torch.zeros(3)}, r"sink_logits has shape \(3,\); it must be \(4,\)"),
        ({"softcap": 0.0}, "softcap=0.0 must be greater than 0"),
        ({"softcap": float("nan")}, "softcap=nan must be greater than 0"),
        ({"scale": -1.0}, "scale=-1.0 must be greater than 0"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    with pytest.raises(ValueError, match=word):
        attention(*inputs(3), **change)


def test_a_step_over_a_cache_takes_the_options_too():
    """One token after eight, the width of values unlike that of keys."""
    q, k, v = (x.detach() for x in inputs(9))
    sink = torch.randn(HQ, dtype=torch.float64)
    whole, _ = attention(q, k, v, sink_logits=sink, softcap=CAP)
    old = KVCache(k[:, :8].clone(), v[:, :8].clone(), torch.tensor([8, 8]))
    last, _ = attention(q[:, 8:], k[:, 8:], v[:, 8:], cache=old, sink_logits=sink, softcap=CAP)
    assert_near(last, whole[:, 8:])
    assert (D, DV, HKV) == (6, 4, 2)
    assert not torch.allclose(F.normalize(last), F.normalize(attention(q, k, v)[0][:, 8:]))
