"""Sliding windows with sinks: against a mask written out, packed, carried, linear in the length."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from braidlm.laws.flops import UNKNOWN_TO_TORCH
from braidlm.ops.attention import KVCache, attention
from braidlm.ops.attention.cache import Window
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.attention.sdpa import attention_sdpa
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
from tests.tolerances import BF16_L2

HQ, HKV, D, DV = 4, 2, 6, 4


def inputs(length, dtype=torch.float64, rows=2):
    return [
        leaf(rows, length, heads, width, dtype=dtype)
        for heads, width in ((HQ, D), (HKV, D), (HKV, DV))
    ]


def seen(length, window, n_sinks):
    """(T, T) bool, by the definition."""
    t, s = torch.arange(length)[:, None], torch.arange(length)
    return (s <= t) & ((t - s < window) | (s < n_sinks))


WINDOWS = [(1, 0), (1, 2), (5, 0), (64, 3), (65, 0), (70, 4), (300, 1)]
"""Below, at and above 65 tokens; with sinks the first 74 tokens see everything at (70, 4)."""


@pytest.mark.parametrize(("window", "n_sinks"), WINDOWS)
@pytest.mark.parametrize("impl", ["naive", "sdpa"])
def test_it_is_its_mask(window, n_sinks, impl):
    q, k, v = inputs(65)

    def judge():
        wide = (x.repeat_interleave(2, dim=2).transpose(1, 2) for x in (k, v))
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2), *wide, attn_mask=seen(65, window, n_sinks)
        )
        return (o.transpose(1, 2),)

    def ours():
        return (attention(q, k, v, window=window, n_sinks=n_sinks, impl=impl)[0],)

    assert_same(ours, judge, [q, k, v])


def check_forms(length, window, n_sinks, layout, past):
    segments = layouts(length, 16)[layout]
    given = inputs(length)
    cache, tensors = None, given
    if past is not None:
        n_docs = 2 if segments is None else segments.n_docs
        seen_before = [past[d % len(past)] for d in range(n_docs)]
        cache = ring(seen_before, window, n_sinks)
        tensors = [*given, cache.k, cache.v]

    def form(impl):
        o, new = attention(
            *given, segments=segments, cache=cache, window=window, n_sinks=n_sinks, impl=impl
        )
        assert new is not None
        assert new.k.shape[1] <= window + n_sinks
        return only_real(o, segments), new.k, new.v, new.length

    assert_same(lambda: form("sdpa"), lambda: form("naive"), tensors)


def ring(n_seen, window, n_sinks) -> KVCache:
    """A cache of random entries after so many tokens of each document."""
    capacity = min(max(n_seen), window + n_sinks)
    k, v = (torch.randn(len(n_seen), capacity, HKV, w, dtype=torch.float64) for w in (D, DV))
    length = torch.tensor(n_seen)
    is_empty = (torch.arange(capacity) >= length[:, None])[..., None, None]
    k, v = (x.masked_fill(is_empty, 0).requires_grad_() for x in (k, v))
    return KVCache(k, v, length)


FORMS = [
    (1, 4, 0, "rows", None),
    (63, 16, 0, "rows", None),
    (65, 16, 2, "edges", None),
    (65, 15, 1, "packed", None),
    (65, 17, 0, "packed", None),
    (65, 4, 2, "padded", None),
    (200, 64, 4, "packed", None),
    (200, 8, 0, "edges", None),
    (200, 300, 2, "packed", None),
    (1, 5, 2, "rows", (3,)),
    (1, 5, 2, "rows", (40, 6)),
    (65, 5, 2, "rows", (40,)),
    (65, 5, 0, "rows", (5, 0)),
    (65, 30, 3, "padded", (7, 90)),
    (65, 9, 2, "packed", (13, 0, 4)),
    (200, 64, 0, "packed", (64, 63, 65, 1)),
]


@pytest.mark.parametrize(("length", "window", "n_sinks", "layout", "past"), FORMS)
def test_sdpa_is_naive(length, window, n_sinks, layout, past):
    check_forms(length, window, n_sinks, layout, past)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "n_sinks"), [(1, 0), (17, 3), (64, 1)])
@pytest.mark.parametrize("past", [None, (5,), (0, 16, 17, 18, 90)])
@pytest.mark.parametrize("length", [1, 63, 200])
def test_sdpa_is_naive_everywhere(length, window, n_sinks, past):
    for layout in layouts(length, 16):
        check_forms(length, window, n_sinks, layout, past)


def test_gradcheck():
    segments = Segments.from_doc_ids(torch.tensor([[0, 0, 0, 0, -1, 1]]))
    length = torch.tensor([7, 1])

    def form(q, k, v, old_k, old_v):
        cache = KVCache(old_k, old_v, length)
        o, new = attention(q, k, v, segments=segments, cache=cache, window=2, n_sinks=1)
        assert new is not None
        return only_real(o, segments), new.k, new.v

    shapes = [(1, 6, 2, 2), (1, 6, 1, 2), (1, 6, 1, 2), (2, 3, 1, 2), (2, 3, 1, 2)]
    assert torch.autograd.gradcheck(form, tuple(leaf(*shape) for shape in shapes))


def test_documents_about_as_long_as_the_window_are_what_each_is_alone():
    """Lengths 1, window - 1, window, window + 1 in one row, and boundaries on a block's edge."""
    window, n_sinks = 70, 2
    rows = [[1, 69, 70, 71, 1], [72, 73, 67], [142, 70]]
    segments = Segments.from_lengths(rows, 215)
    given = inputs(215, rows=3)

    def packed():
        o, _ = attention(*given, segments=segments, window=window, n_sinks=n_sinks)
        assert not bool(o[~segments.is_real].any())
        return (o[segments.is_real],)

    def separate():
        parts = [[x[r : r + 1, s : s + n] for x in given] for r, s, n in segments.spans]
        found = [attention(*part, window=window, n_sinks=n_sinks)[0][0] for part in parts]
        return (torch.cat(found),)

    assert_same(packed, separate, given)


@pytest.mark.parametrize(("window", "n_sinks"), [(1, 0), (7, 0), (7, 3), (40, 2)])
@pytest.mark.parametrize("has_grad", [False, True])
def test_segments_with_a_carried_ring_are_one_long_sequence(window, n_sinks, has_grad):
    given = [x.detach().requires_grad_(has_grad) for x in inputs(60)]
    whole, last = attention(*given, window=window, n_sinks=n_sinks)
    assert last is not None
    for cuts in ([1] * 60, [7, 1, 22, 30], [50, 10], [9, 1, 1, 49]):
        cache, pieces = None, []
        for part in zip(*(x.split(cuts, dim=1) for x in given), strict=True):
            o, cache = attention(*part, cache=cache, window=window, n_sinks=n_sinks)
            pieces.append(o)
        assert cache is not None
        assert_near(torch.cat(pieces, 1), whole)
        for ours, theirs in zip(cache, last, strict=True):
            assert_near(ours, theirs)


@pytest.mark.parametrize(("length", "t"), [(29, 16), (200, 70), (600, 300)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_future_leaves_the_past_bit_identical(length, t, is_packed):
    given = [x.detach() for x in inputs(length, dtype=torch.float32)]
    segments = Segments.from_lengths([[3, length - 3], [length - 1, 1]]) if is_packed else None
    before, _ = attention(*given, segments=segments, window=10, n_sinks=2)
    changed = [x.clone() for x in given]
    for x in changed:
        x[:, t] = x[:, t] * 50 + 3
    after, _ = attention(*changed, segments=segments, window=10, n_sinks=2)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])
    assert torch.equal(before[:, t + 10 :], after[:, t + 10 :])


@pytest.mark.parametrize("past", [None, (40, 2)])
def test_padding_is_zero_and_reaches_no_document(past):
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    given = [x.detach() for x in inputs(65)]
    for x in given:
        x[~segments.is_real] = torch.nan
    with torch.no_grad():
        cache = None if past is None else ring(past, 9, 2)
        o, new = attention(*given, segments=segments, cache=cache, window=9, n_sinks=2)
    assert new is not None
    assert not bool(o[~segments.is_real].any())
    for result in (o, new.k, new.v):
        assert bool(result.isfinite().all())


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("options", [{}, {"softcap": 1.0}, {"sink_logits": torch.zeros(HQ)}])
def test_a_batch_of_nothing_but_padding_gives_zeros_and_no_document(window, options):
    segments = Segments.from_doc_ids(torch.full((2, 5), -1))
    none = KVCache(torch.zeros(0, 3, HKV, D), torch.zeros(0, 3, HKV, DV), torch.zeros(0).long())
    for impl in ("sdpa", "naive"):
        for cache in (None, none):
            call = {"segments": segments, "cache": cache, "window": window, "impl": impl}
            o, new = attention(*inputs(5, torch.float32), **call, **options)
            assert not bool(o.any())
            assert new is not None
            assert new.length.tolist() == []


def test_bf16_stays_near_fp64():
    """The sinks' gradient sums over thousands of queries: it is kept wide."""
    quantised = inputs(2000, dtype=torch.bfloat16, rows=1)
    exact = [x.detach().double().requires_grad_() for x in quantised]

    def form(given):
        return (attention(*given, window=64, n_sinks=4, return_state=False)[0],)

    ours = with_gradients(lambda: form(quantised), quantised)
    truth = with_gradients(lambda: form(exact), exact)
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["attention options"], errors
    of_sinks = [relative_l2(a[:, :4], b[:, :4]) for a, b in zip(ours[2:], truth[2:], strict=True)]
    assert max(of_sinks) < BF16_L2["attention options"], of_sinks


class TestTheRing:
    def test_a_full_one_is_written_in_place_by_any_number_of_tokens(self):
        cache = KVCache(*(x.detach() for x in ring([9, 30], 5, 2)))
        address = cache.k.data_ptr(), cache.v.data_ptr()
        with torch.no_grad():
            for length in (1, 3, 20):
                _, new = attention(*inputs(length), cache=cache, window=5, n_sinks=2)
                assert new is not None
                assert (new.k.data_ptr(), new.v.data_ptr()) == address
                cache = new
        assert cache.length.tolist() == [33, 54]

    def test_it_is_never_written_when_gradients_flow(self):
        cache = ring([9, 30], 5, 2)
        before = cache.k.detach().clone()
        _, new = attention(*inputs(1), cache=cache, window=5, n_sinks=2)
        assert new is not None
        assert torch.equal(cache.k, before)
        assert new.k.requires_grad

    def test_sinks_stay_and_the_oldest_token_is_written_over(self):
        k = torch.arange(9.0).view(1, 9, 1, 1)
        _, cache = attention(k, k, k, window=3, n_sinks=2)
        assert cache is not None
        assert cache.k.flatten().tolist() == [0, 1, 8, 6, 7]
        one = torch.full((1, 1, 1, 1), 9.0)
        _, cache = attention(one, one, one, cache=cache, window=3, n_sinks=2)
        assert cache is not None
        assert cache.k.flatten().tolist() == [0, 1, 8, 9, 7]

    def test_it_grows_no_further_than_its_span(self):
        given = [x.detach() for x in inputs(1)]
        cache, capacities = None, []
        for _ in range(9):
            _, cache = attention(*given, cache=cache, window=4, n_sinks=2)
            assert cache is not None
            capacities.append(cache.k.shape[1])
        assert capacities == [1, 2, 4, 4, 6, 6, 6, 6, 6]

    def test_a_full_one_is_read_by_a_step_without_a_mask(self):
        """On a CPU; elsewhere the mask spares the host a wait."""
        given = [x.detach() for x in inputs(1)]
        for past, has_mask in (((9, 30), False), ((9, 5), True)):
            cache = KVCache(*(x.detach() for x in ring(past, 5, 2)))
            with Calls() as calls:
                attention(*given, cache=cache, window=5, n_sinks=2)
            assert calls.masked == [has_mask]

    @torch.no_grad()
    def test_a_step_over_a_full_one_asks_the_device_for_no_value(self):
        """Meta tensors have none: whatever made the host wait for a number would fail here."""

        def step(capacity):
            cache = KVCache(*(x.to("meta") for x in ring([capacity, capacity], 5, 2)))
            q, k, v = (x.to("meta") for x in inputs(1))
            how = {"segments": None, "cache": cache, "window": Window(5, 2), "return_state": True}
            return attention_sdpa(q, k, v, scoring=Scoring(0.4), **how)[0]

        assert step(7).shape == (2, 1, HQ, DV)
        with pytest.raises(RuntimeError, match="meta"):
            step(6)


class Calls(TorchDispatchMode):
    """Which attention calls had a mask, and the largest tensor that was made."""

    def __init__(self):
        super().__init__()
        self.masked, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "attention" in str(func) and "backward" not in str(func):
            self.masked.append((kwargs or {}).get("attn_mask") is not None)
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


@pytest.mark.parametrize("layout", ["rows", "packed", "padded", "cache"])
def test_work_and_memory_are_linear_in_the_length(layout):
    """Twice and four times the tokens, forward and backward, one document or several."""

    def measured(length):
        given = inputs(length, torch.float32, rows=1)
        segments = {
            "packed": Segments.from_lengths([[1, 100, length // 2, length - length // 2 - 101]]),
            "padded": Segments.from_lengths([[length - 9]], length),
        }.get(layout)
        cache = None
        if layout == "cache":
            old = torch.randn(1, 34, HKV, D), torch.randn(1, 34, HKV, DV)
            cache = KVCache(*old, torch.tensor([500]))
        counter = FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH)
        with Calls() as calls, counter:
            o, _ = attention(*given, segments=segments, cache=cache, window=32, n_sinks=2)
            o.square().sum().backward()
        return calls.largest, counter.get_total_flops()

    small, middle, large = (measured(n) for n in (1024, 2048, 4096))
    for a, b, c in zip(small, middle, large, strict=True):
        assert abs((c - b) - 2 * (b - a)) <= 0.1 * (c - b)
        assert c < 4.2 * a
    assert large[0] < 4096 * 4096 // 8


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"window": 0}, "window=0 must be at least 1"),
        ({"window": None, "n_sinks": 2}, "n_sinks=2 at least 0, and 0 without a window"),
        ({"n_sinks": -1}, "n_sinks=-1"),
        ({"window": 2, "cache": ring([9, 9], 5, 1)}, "6 places; .* at most 2"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    q, k, v = inputs(3)
    with pytest.raises(ValueError, match=word):
        attention(q, k, v, **{"window": 4, **change})
