"""Fading attention: against two masks written out, packed, carried, linear in the length."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from braidlm.arch.mixers.tiles import fading_pairs
from braidlm.laws.flops import UNKNOWN_TO_TORCH
from braidlm.ops.attention import KVCache, Reserved
from braidlm.ops.fading import Entries, FadingCache, fading_attention, with_reserve
from braidlm.ops.fading.blocks import fading_blocks
from braidlm.segments import Segments
from braidlm.state import map_tensors, tensors
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
    widths = ((HQ, D), (HKV, D), (HKV, DV), (HKV, D), (HKV, DV))
    return [leaf(rows, length, heads, width, dtype=dtype) for heads, width in widths]


def attend(given, window, **how):
    q, k, v, fk, fv = given
    return fading_attention(q, Entries(k, v), Entries(fk, fv), window=window, **how)


def by_masks(given, window, scale=D**-0.5):
    """The two sets of keys beside each other, a mask of T x 2 T, one softmax: the definition."""
    q, k, v, fk, fv = given
    length = q.shape[1]
    back = torch.arange(length)[:, None] - torch.arange(length)
    near = (back >= 0) & (back < window)
    far = (back >= window) & (back < 2 * window)
    keys, values = torch.cat((k, fk), dim=1), torch.cat((v, fv), dim=1)
    keys, values = (x.repeat_interleave(HQ // HKV, dim=2) for x in (keys, values))
    scores = torch.einsum("bthd,bshd->bhts", q, keys) * scale
    scores = scores.masked_fill(~torch.cat((near, far), dim=1), -torch.inf)
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), values)


@pytest.mark.parametrize("impl", ["naive", "blocks"])
@pytest.mark.parametrize(("length", "window"), [(1, 1), (9, 1), (23, 4), (33, 32), (33, 33)])
def test_it_is_its_masks(length, window, impl):
    given = inputs(length)
    ours = lambda: (attend(given, window, impl=impl, scale=0.3)[0],)  # noqa: E731
    assert_same(ours, lambda: (by_masks(given, window, 0.3),), given)


@pytest.mark.parametrize(("length", "window"), [(400, 70), (700, 130), (1100, 300)])
def test_blocks_of_every_size_are_its_masks(length, window):
    """Blocks of 70, 130 and 256 queries, of which the first see fewer faded entries."""
    given = inputs(length, rows=1)
    ours = lambda: (attend(given, window, return_state=False)[0],)  # noqa: E731
    assert_same(ours, lambda: (by_masks(given, window),), given)


def past_of(n_seen, window) -> FadingCache:
    """A cache of random entries after so many tokens of each document."""
    length, rings = torch.tensor(n_seen), []
    for most in (2 * window, window):
        capacity = min(max(n_seen), most)
        is_empty = (torch.arange(capacity) >= length[:, None])[..., None, None]
        shape = len(n_seen), capacity, HKV
        k, v = (torch.randn(*shape, w, dtype=torch.float64) for w in (D, DV))
        k, v = (x.masked_fill(is_empty, 0).requires_grad_() for x in (k, v))
        rings.append(KVCache(k, v, length))
    return FadingCache(*rings)


def check_forms(length, window, layout, past):
    segments = layouts(length, 16)[layout]
    given = inputs(length)
    cache, sources = None, given
    if past is not None:
        n_docs = 2 if segments is None else segments.n_docs
        cache = past_of([past[d % len(past)] for d in range(n_docs)], window)
        sources = [*given, *(t for t in tensors(cache) if t.is_floating_point())]

    def form(impl):
        o, new = attend(given, window, segments=segments, cache=cache, impl=impl)
        assert new is not None
        return only_real(o, segments), *tensors(new)

    assert_same(lambda: form("blocks"), lambda: form("naive"), sources)


FORMS = [
    (1, 4, "rows", None),
    (63, 16, "rows", None),
    (65, 16, "edges", None),
    (65, 7, "packed", None),
    (65, 3, "padded", None),
    (200, 64, "packed", None),
    (200, 300, "rows", None),
    (1, 5, "rows", (3,)),
    (1, 5, "rows", (40, 6)),
    (65, 5, "rows", (40,)),
    (65, 5, "rows", (5, 0)),
    (65, 30, "padded", (7, 90)),
    (65, 9, "packed", (13, 0, 4, 18, 17)),
]


@pytest.mark.parametrize(("length", "window", "layout", "past"), FORMS)
def test_blocks_are_naive(length, window, layout, past):
    check_forms(length, window, layout, past)


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 17, 64])
@pytest.mark.parametrize("past", [None, (5,), (0, 16, 17, 18, 34, 35, 90)])
@pytest.mark.parametrize("length", [1, 63, 200])
def test_blocks_are_naive_everywhere(length, window, past):
    for layout in layouts(length, 16):
        check_forms(length, window, layout, past)


def test_gradcheck():
    segments = Segments.from_doc_ids(torch.tensor([[0, 0, 0, 0, -1, 1]]))
    length = torch.tensor([7, 1])

    def form(q, k, v, fk, fv, sk, sv, wk, wv):
        cache = FadingCache(KVCache(sk, sv, length), KVCache(wk, wv, length))
        o, new = attend((q, k, v, fk, fv), 2, segments=segments, cache=cache)
        assert new is not None
        return only_real(o, segments), *tensors(new)[:2], *tensors(new)[3:5]

    shapes = [(1, 6, 2, 2)] + 4 * [(1, 6, 1, 2)] + 2 * [(2, 4, 1, 2)] + 2 * [(2, 2, 1, 2)]
    assert torch.autograd.gradcheck(form, tuple(leaf(*shape) for shape in shapes))


def test_documents_about_as_long_as_two_windows_are_what_each_is_alone():
    window = 34
    rows = [[1, 33, 34, 35, 67, 1], [68, 69, 34], [102, 1, 68]]
    segments = Segments.from_lengths(rows, 180)
    given = inputs(180, rows=3)

    def packed():
        o, _ = attend(given, window, segments=segments)
        assert not bool(o[~segments.is_real].any())
        return (o[segments.is_real],)

    def separate():
        parts = [[x[r : r + 1, s : s + n] for x in given] for r, s, n in segments.spans]
        return (torch.cat([by_masks(part, window)[0] for part in parts]),)

    assert_same(packed, separate, given)


@pytest.mark.parametrize("window", [1, 7, 40])
@pytest.mark.parametrize("has_grad", [False, True])
def test_segments_with_a_carried_cache_are_one_long_sequence(window, has_grad):
    given = [x.detach().requires_grad_(has_grad) for x in inputs(60)]
    whole, last = attend(given, window)
    for cuts in ([1] * 60, [7, 1, 22, 30], [50, 10], [9, 1, 1, 49]):
        cache, pieces = None, []
        for part in zip(*(x.split(cuts, dim=1) for x in given), strict=True):
            o, cache = attend(part, window, cache=cache)
            pieces.append(o)
        assert_near(torch.cat(pieces, 1), whole)
        for ours, theirs in zip(tensors(cache), tensors(last), strict=True):
            assert_near(ours[:, : theirs.shape[1]] if ours.dim() > 1 else ours, theirs)


@pytest.mark.parametrize(("length", "t"), [(29, 16), (300, 70), (600, 300)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_future_leaves_the_past_bit_identical(length, t, is_packed):
    given = [x.detach() for x in inputs(length, dtype=torch.float32)]
    segments = Segments.from_lengths([[3, length - 3], [length - 1, 1]]) if is_packed else None
    before, _ = attend(given, 5, segments=segments)
    changed = [x.clone() for x in given]
    for x in changed:
        x[:, t] = x[:, t] * 50 + 3
    after, _ = attend(changed, 5, segments=segments)
    is_same = [torch.equal(before[:, i], after[:, i]) for i in range(t - 2, t + 12)]
    assert is_same == [True] * 2 + [False] * 10 + [True] * 2
    assert torch.equal(before[:, :t], after[:, :t])
    assert torch.equal(before[:, t + 10 :], after[:, t + 10 :])


def test_an_own_entry_is_seen_within_the_window_and_a_faded_one_in_the_window_before():
    given = [x.detach() for x in inputs(30)]
    before, _ = attend(given, 4)
    for changed, seen in (((1, 2), range(9, 13)), ((3, 4), range(13, 17))):
        other = [x.clone() for x in given]
        for i in changed:
            other[i][:, 9] += 1
        after, _ = attend(other, 4)
        is_other = [t for t in range(30) if not torch.equal(before[:, t], after[:, t])]
        assert is_other == list(seen)


@pytest.mark.parametrize("past", [None, (40, 2)])
def test_padding_is_zero_and_reaches_no_document(past):
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    given = [x.detach() for x in inputs(65)]
    for x in given:
        x[~segments.is_real] = torch.nan
    with torch.no_grad():
        cache = None if past is None else past_of(past, 9)
        o, new = attend(given, 9, segments=segments, cache=cache)
    assert not bool(o[~segments.is_real].any())
    for result in (o, *tensors(new)):
        assert bool(result.isfinite().all())


def test_a_batch_of_nothing_but_padding_gives_zeros_and_no_document():
    segments = Segments.from_doc_ids(torch.full((2, 5), -1))
    rings = [
        KVCache(torch.zeros(0, n, HKV, D), torch.zeros(0, n, HKV, DV), torch.zeros(0).long())
        for n in (6, 3)
    ]
    for impl in ("blocks", "naive"):
        for cache in (None, FadingCache(*rings)):
            given = inputs(5, torch.float32)
            o, new = attend(given, 3, segments=segments, cache=cache, impl=impl)
            assert not bool(o.any())
            assert new is not None
            assert new.seen.length.tolist() == []


def test_bf16_stays_near_fp64():
    quantised = inputs(1000, dtype=torch.bfloat16, rows=1)
    exact = [x.detach().double().requires_grad_() for x in quantised]

    def form(given):
        return (attend(given, 64, return_state=False)[0],)

    ours = with_gradients(lambda: form(quantised), quantised)
    truth = with_gradients(lambda: form(exact), exact)
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["attention"], errors


class TestTheCache:
    def test_a_token_fades_after_its_window_and_is_forgotten_after_two(self):
        own = torch.arange(9.0).view(1, 9, 1, 1)
        cache = attend((own, own, own, -own, -own), 3)[1]
        assert cache is not None
        assert cache.seen.k.flatten().tolist() == [6, 7, 8, -3, -4, -5]
        assert cache.waiting.k.flatten().tolist() == [-6, -7, -8]
        one = torch.full((1, 1, 1, 1), 9.0)
        cache = attend((one, one, one, -one, -one), 3, cache=cache)[1]
        assert cache is not None
        assert cache.seen.k.flatten().tolist() == [9, 7, 8, -6, -4, -5]
        assert cache.waiting.k.flatten().tolist() == [-9, -7, -8]

    def test_it_grows_no_further_than_three_windows(self):
        given = [x.detach() for x in inputs(1)]
        cache, capacities = None, []
        for _ in range(9):
            _, cache = attend(given, 3, cache=cache)
            assert cache is not None
            capacities.append((cache.seen.k.shape[1], cache.waiting.k.shape[1]))
        assert capacities == [(1, 1), (2, 2), (4, 3), (4, 3)] + 5 * [(6, 3)]

    def test_steps_of_a_full_one_are_written_in_place(self):
        cache = map_tensors(torch.Tensor.detach, past_of([9, 30], 4))
        address = [t.data_ptr() for t in tensors(cache) if t.is_floating_point()]
        for _ in range(9):
            _, cache = attend([x.detach() for x in inputs(1)], 4, cache=cache)
            assert cache is not None
            assert [t.data_ptr() for t in tensors(cache) if t.is_floating_point()] == address
        assert cache.seen.length.tolist() == [18, 39]

    def test_it_is_never_written_when_gradients_flow(self):
        cache = past_of([9, 30], 4)
        before = [t.detach().clone() for t in tensors(cache)]
        _, new = attend(inputs(1), 4, cache=cache)
        assert all(torch.equal(a, b) for a, b in zip(tensors(cache), before, strict=True))
        assert new is not None
        assert new.seen.k.requires_grad

    @pytest.mark.parametrize("window", [3, 400])
    def test_a_reserved_one_gives_the_same_and_stays_where_it_is(self, window):
        """Windows below and above the room's step, one token and several at a time."""
        given = [x.detach() for x in inputs(40)]
        cache = attend([x[:, :5] for x in given], window)[1]
        assert cache is not None
        plain, roomy = cache, with_reserve(map_tensors(torch.clone, cache), 35, window)
        address = [t.data_ptr() for t in tensors(roomy) if t.is_floating_point()]
        assert isinstance(roomy.seen, Reserved)
        for a, b in pairwise([5, 6, 7, 8, 11, 12, 30, *range(31, 41)]):
            part = [x[:, a:b] for x in given]
            found, roomy = attend(part, window, cache=roomy)
            expected, plain = attend(part, window, cache=plain)
            assert_near(found, expected)
            assert roomy is not None
            assert [t.data_ptr() for t in tensors(roomy) if t.is_floating_point()] == address

    @torch.no_grad()
    def test_a_step_over_a_reserved_one_asks_the_device_for_no_value(self):
        """Meta tensors have none: whatever made the host wait for a number would fail here."""
        cache = with_reserve(map_tensors(torch.Tensor.detach, past_of([9, 2], 4)), 5, 4)
        on_meta = map_tensors(lambda t: t.to("meta"), cache)
        q, *rest = (x.to("meta") for x in inputs(1))
        own, faded = Entries(*rest[:2]), Entries(*rest[2:])
        how = {"segments": None, "scale": 0.4, "window": 4, "return_state": True}
        o, new = fading_blocks(q, own, faded, cache=on_meta, **how)
        assert o.shape == (2, 1, HQ, DV)
        assert isinstance(new, FadingCache)


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that was made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.size = max([self.size, *sizes])
        return result


@pytest.mark.parametrize("layout", ["rows", "packed", "cache"])
def test_work_and_memory_are_linear_in_the_length(layout):
    """Twice and four times the tokens, forward and backward, one document or several."""

    def measured(length):
        given = inputs(length, torch.float32, rows=1)
        segments = Segments.from_lengths([[1, 100, length - 101]]) if layout == "packed" else None
        cache = past_of([500], 32) if layout == "cache" else None
        cache = map_tensors(lambda t: t.detach().float() if t.is_floating_point() else t, cache)
        counter = FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH)
        with Largest() as largest, counter:
            o, _ = attend(given, 32, segments=segments, cache=cache)
            o.sum().backward()
        return largest.size, counter.get_total_flops()

    (s1, f1), (s2, f2), (s4, f4) = (measured(n) for n in (1000, 2000, 4000))
    assert s4 - s2 <= 2.1 * (s2 - s1) + 1
    assert f4 - f2 <= 2.1 * (f2 - f1) + 1
    assert s4 < 4000 * 4000 / 8


@pytest.mark.parametrize(("length", "window"), [(5, 8), (65, 64), (70, 5), (400, 70), (900, 300)])
def test_the_counter_sees_the_pairs_that_are_predicted(length, window):
    given = inputs(length, torch.float32)
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        attend(given, window, return_state=False)
    assert counter.get_total_flops() == 2 * 4 * fading_pairs(length, window) * HQ * max(D, DV)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, c: (g, c, 0), "window=0 must be at least 1"),
        (lambda g, c: ([g[0][..., :2], *g[1:]], c, 4), r"own\.k has shape"),
        (lambda g, c: ([*g[:4], g[4][:, :3]], c, 4), r"faded\.v has shape"),
        (lambda g, c: ([g[0][:, :, :3], *g[1:]], c, 4), "Hq=3 must be a multiple of Hkv=2"),
        (lambda g, c: (g, c, 3), r"cache\.seen has 8 places; that of window=3 has at most 6"),
        (lambda g, c: ([x[:1] for x in g], c, 4), r"cache\.seen\.k has shape"),
        (lambda g, c: ([x[:, :0] for x in g], c, 4), "with T >= 1"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given, cache, window = change(inputs(5), past_of([9, 30], 4))
    with pytest.raises(ValueError, match=message):
        attend(given, window, cache=cache)
