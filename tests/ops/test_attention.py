from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from braidlm.ops.attention import KVCache, attention
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
from tests.tolerances import BF16_L2

HQ, HKV, D, DV = 4, 2, 6, 6


def inputs(length, v_width=DV, dtype=torch.float64):
    return [
        leaf(2, length, heads, width, dtype=dtype)
        for heads, width in ((HQ, D), (HKV, D), (HKV, v_width))
    ]


def held(n_docs, lengths, v_width=DV, capacity=9) -> KVCache:
    return KVCache(
        leaf(n_docs, capacity, HKV, D),
        leaf(n_docs, capacity, HKV, v_width),
        torch.tensor([lengths[d % len(lengths)] for d in range(n_docs)]),
    )


def check_forms(length, lengths, layout, v_width=DV):
    segments = layouts(length, 16)[layout]
    given = inputs(length, v_width)
    n_docs = 2 if segments is None else segments.n_docs
    cache = None if lengths is None else held(n_docs, lengths, v_width)
    tensors = given if cache is None else [*given, cache.k, cache.v]

    def form(impl):
        o, new = attention(*given, segments=segments, cache=cache, impl=impl)
        assert new is not None
        for d, n in enumerate(new.length.tolist()):
            assert not bool(new.k[d, n:].any())
        return only_real(o, segments), new.k, new.v, new.length

    assert_same(lambda: form("sdpa"), lambda: form("naive"), tensors)


CASES = [
    (1, None, "rows"),
    (63, None, "rows"),
    (65, None, "packed"),
    (65, None, "edges"),
    (65, None, "padded"),
    (1, (5,), "rows"),
    (1, (5, 2), "rows"),
    (65, (5,), "rows"),
    (65, (0,), "rows"),
    (65, (9, 0, 4), "packed"),
    (65, (3, 7), "padded"),
]


@pytest.mark.parametrize("v_width", [DV, 4, 8])
@pytest.mark.parametrize(("length", "lengths", "layout"), CASES)
def test_sdpa_is_naive(length, lengths, layout, v_width):
    check_forms(length, lengths, layout, v_width)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "layout"), every_layout((1, 63, 65, 200, 600)))
@pytest.mark.parametrize("lengths", [None, (5,), (9, 0, 4)])
def test_sdpa_is_naive_everywhere(length, lengths, layout):
    check_forms(length, lengths, layout)


def test_naive_is_torch_written_out():
    q, k, v = inputs(12)

    def judge():
        wide = (x.repeat_interleave(2, dim=2).transpose(1, 2) for x in (k, v))
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2), *wide, attn_mask=torch.ones(12, 12).tril().bool(), scale=0.3
        )
        return (o.transpose(1, 2),)

    def ours():
        return (attention(q, k, v, scale=0.3, impl="naive", return_state=False)[0],)

    assert_same(ours, judge, [q, k, v])


def test_gradcheck():
    segments = Segments.from_doc_ids(torch.tensor([[0, 1, 1, -1, 2]]))
    length = torch.tensor([2, 0, 1])

    def form(q, k, v, old_k, old_v):
        cache = KVCache(old_k, old_v, length)
        o, new = attention(q, k, v, segments=segments, cache=cache)
        assert new is not None
        return only_real(o, segments), new.k, new.v

    args = (
        leaf(1, 5, 2, 2),
        leaf(1, 5, 1, 2),
        leaf(1, 5, 1, 2),
        leaf(3, 2, 1, 2),
        leaf(3, 2, 1, 2),
    )
    assert torch.autograd.gradcheck(form, args)


@pytest.mark.parametrize(("length", "t"), [(10, 4), (65, 64), (600, 300)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_future_leaves_the_past_bit_identical(length, t, is_packed):
    given = [v.detach() for v in inputs(length, dtype=torch.float32)]
    segments = Segments.from_lengths([[3, length - 3], [length - 1, 1]]) if is_packed else None
    before, _ = attention(*given, segments=segments)
    changed = [v.clone() for v in given]
    for v in changed:
        v[:, t] = v[:, t] * 50 + 3
    after, _ = attention(*changed, segments=segments)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("has_grad", [False, True])
def test_prefill_and_steps_are_the_full_call_at_every_split(has_grad):
    given = [v.detach().requires_grad_(has_grad) for v in inputs(17)]
    full, last = attention(*given)
    assert last is not None
    for split in range(1, 17):
        o, cache = attention(*(v[:, :split] for v in given))
        pieces = [o]
        for t in range(split, 17):
            o, cache = attention(*(v[:, t : t + 1] for v in given), cache=cache)
            pieces.append(o)
        assert_near(torch.cat(pieces, 1), full)
        assert cache is not None
        assert cache.length.tolist() == [17, 17]
        assert_near(cache.k[:, :17], last.k)
        assert_near(cache.v[:, :17], last.v)


def test_segments_with_carried_cache_are_one_long_sequence():
    given = inputs(50)

    def whole():
        o, cache = attention(*given)
        assert cache is not None
        return o, cache.k, cache.v

    def carried():
        cache, pieces = None, []
        for a, b in ((0, 7), (7, 31), (31, 50)):
            o, cache = attention(*(v[:, a:b] for v in given), cache=cache)
            pieces.append(o)
        assert cache is not None
        return torch.cat(pieces, 1), cache.k, cache.v

    assert_same(carried, whole, given)


@pytest.mark.parametrize("layout", ["packed", "edges", "padded"])
@pytest.mark.parametrize("has_cache", [False, True])
def test_packed_is_separate(layout, has_cache):
    segments = layouts(70, 16)[layout]
    assert segments is not None
    given = inputs(70)
    cache = held(segments.n_docs, (4, 0, 7)) if has_cache else None

    def packed():
        return (attention(*given, segments=segments, cache=cache)[0][segments.is_real],)

    def separate():
        found = []
        for d, (row, start, n) in enumerate(segments.spans):
            alone = cache and KVCache(*(x[d : d + 1] for x in cache))
            part = [v[row : row + 1, start : start + n] for v in given]
            found.append(attention(*part, cache=alone)[0][0])
        return (torch.cat(found),)

    assert_same(packed, separate, given if cache is None else [*given, cache.k, cache.v])


@pytest.mark.parametrize("has_cache", [False, True])
def test_padding_is_zero_and_reaches_no_document(has_cache):
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    given = [v.detach() for v in inputs(65)]
    for v in given:
        v[~segments.is_real] = torch.nan
    cache = KVCache(*(x.detach() for x in held(2, (4, 0)))) if has_cache else None
    o, new = attention(*given, segments=segments, cache=cache)
    assert new is not None
    assert not bool(o[~segments.is_real].any())
    for result in (o, new.k, new.v):
        assert bool(result.isfinite().all())


def test_a_donated_cache_is_written_in_place_until_it_is_full():
    q, k, v = (x.detach() for x in inputs(1))
    cache = KVCache(torch.zeros(2, 4, HKV, D), torch.zeros(2, 4, HKV, DV), torch.tensor([2, 2]))
    cache = KVCache(*(x.double() if x.is_floating_point() else x for x in cache))
    _, third = attention(q, k, v, cache=cache)
    _, fourth = attention(q, k, v, cache=third)
    _, fifth = attention(q, k, v, cache=fourth)
    assert third is not None
    assert fourth is not None
    assert fifth is not None
    assert third.k.data_ptr() == fourth.k.data_ptr() == cache.k.data_ptr()
    assert torch.equal(cache.k[:, 2], k[:, 0])
    assert fifth.k.data_ptr() != cache.k.data_ptr()
    assert fifth.k.shape[1] == 8
    assert torch.equal(fifth.v[:, 2:5], v.expand(2, 3, HKV, DV))
    assert cache.length.tolist() == [2, 2]


def test_a_cache_is_never_written_in_place_when_gradients_flow():
    q, k, v = inputs(1)
    cache = KVCache(*(x.detach().clone() for x in held(2, (3,))))
    before = cache.k.clone()
    _, new = attention(q, k, v, cache=cache)
    assert new is not None
    assert torch.equal(cache.k, before)
    assert new.k.requires_grad


def test_bf16_stays_near_fp64():
    quantised = inputs(200, dtype=torch.bfloat16)
    exact = [v.detach().double().requires_grad_() for v in quantised]

    def form(given):
        return (attention(*given, return_state=False)[0],)

    ours = with_gradients(lambda: form(quantised), quantised)
    truth = with_gradients(lambda: form(exact), exact)
    assert ours[0].dtype == torch.bfloat16
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["attention"], errors


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"q": torch.zeros(2, 3, 4)}, "q, k and v have shapes"),
        ({"q": torch.zeros(2, 3, 3, D)}, "Hq=3"),
        ({"k": torch.zeros(2, 3, HKV, 5)}, "k has shape"),
        ({"v": torch.zeros(2, 4, HKV, DV)}, "v has shape"),
        ({"cache": held(3, (2,))}, "cache.k has shape"),
        ({"impl": "flash"}, "auto, step, varlen, sdpa, naive"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    call = dict(zip(("q", "k", "v"), inputs(3), strict=True)) | change
    with pytest.raises(ValueError, match=word):
        attention(**call)
