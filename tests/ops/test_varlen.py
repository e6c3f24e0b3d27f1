"""Packed documents by torch's variable-length attention: on a GPU the real one, else a stand-in."""

from __future__ import annotations

import pytest
import torch

from braidlm.errors import InputError
from braidlm.ops import dispatch
from braidlm.ops.attention import attention
from braidlm.ops.attention import varlen as room
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.dispatch import Call
from braidlm.segments import Segments
from tests.ops.compare import assert_same, leaf, with_gradients
from tests.ops.kernels import HAS_GPU, needs_gpu
from tests.tolerances import BF16_L2

LAYOUTS = {
    "full": ([[5, 27], [32]], 32),
    "padded": ([[5, 20], [1], [9, 3, 14]], 32),
    "one token each": ([[1] * 9], 9),
}


def stand_in(q, k, v, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """Do what torch's does, one document at a time, and check what it demands."""
    assert ends_q is ends_k
    assert ends_q.dtype == torch.int32
    assert int(ends_q[-1]) == len(q) == len(k)
    assert longest_q == longest_k == int((ends_q[1:] - ends_q[:-1]).max())
    assert enable_gqa == (q.shape[1] != k.shape[1])
    found = []
    for start, stop in zip(ends_q[:-1].tolist(), ends_q[1:].tolist(), strict=True):
        a, b, c = (x[start:stop].transpose(0, 1) for x in (q, k, v))
        b, c = (x.repeat_interleave(len(a) // len(x), 0) for x in (b, c))
        back = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = (back >= 0) & ((back <= window_size[0]) | (window_size[0] < 0))
        scores = (a @ b.mT * scale).masked_fill(~seen, -torch.inf)
        found.append((scores.softmax(-1) @ c).transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def by_stand_in(monkeypatch):
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.usefixtures("by_stand_in")
def test_it_is_attention_inside_documents(layout, window):
    lengths, total = LAYOUTS[layout]
    segments = Segments.from_lengths(lengths, total)
    q, k, v = (leaf(len(lengths), total, heads, 8) for heads in (4, 2, 2))
    sight = None if window is None else room.Window(window, 0)

    def ours():
        o, cache = room.attention_varlen(
            q,
            k,
            v,
            segments=segments,
            cache=None,
            scoring=Scoring(0.3),
            window=sight,
            return_state=True,
        )
        assert cache is not None
        return o, cache.k, cache.v, cache.length

    def truth():
        o, cache = attention(q, k, v, segments=segments, scale=0.3, window=window, impl="naive")
        assert cache is not None
        return o, cache.k, cache.v, cache.length

    assert_same(ours, truth, [q, k, v])


@pytest.mark.usefixtures("by_stand_in")
def test_padding_alone_gives_zeros():
    segments = Segments.from_doc_ids(torch.full((2, 3), -1))
    q = leaf(2, 3, 2, 8)
    o, _ = room.attention_varlen(
        q,
        q,
        q,
        segments=segments,
        cache=None,
        scoring=Scoring(1.0),
        window=None,
        return_state=False,
    )
    assert not bool(o.any())


@pytest.mark.usefixtures("by_stand_in")
def test_what_padding_holds_reaches_nothing():
    lengths, total = LAYOUTS["padded"]
    segments = Segments.from_lengths(lengths, total)
    given = [leaf(len(lengths), total, 2, 8) for _ in range(3)]
    for x in given:
        x.data[~segments.is_real] = torch.nan
    o, *grads = with_gradients(
        lambda: room.attention_varlen(
            *given,
            segments=segments,
            cache=None,
            scoring=Scoring(1.0),
            window=None,
            return_state=False,
        )[:1],
        given,
    )
    for found in (o, *grads):
        assert bool(found.isfinite().all())
        assert not bool(found[~segments.is_real].any())


GOOD = Call("cuda", torch.bfloat16, {"T": 8, "D": 64, "Dv": 64}, True, is_packed=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"device": "cpu"}, "NVIDIA"),
        ({"dtype": torch.float32}, "bf16"),
        ({"is_packed": False}, "offsets"),
        ({"has_state": True}, "cache"),
        ({"options": ("cap", "sinks")}, "no cap, no sinks"),
        ({"shapes": {"D": 64, "Dv": 32}}, "one width"),
        ({"shapes": {"D": 20, "Dv": 20}}, "multiple of 8"),
        ({"shapes": {"D": 512, "Dv": 512}}, "up to 256"),
    ],
)
def test_it_says_what_it_cannot(change, why):
    found = room.why_not(GOOD._replace(**change))
    assert found is None if why is None else why in str(found)


@pytest.mark.skipif(HAS_GPU, reason="a GPU runs it")
def test_asking_for_it_on_a_cpu_is_refused():
    q = leaf(1, 4, 2, 8)
    with pytest.raises(InputError, match=r"varlen.*NVIDIA"):
        attention(q, q, q, segments=Segments.from_lengths([[4]]), impl="varlen")


def test_a_host_that_knows_the_documents_goes_on_to():
    segments = Segments.from_lengths([[3, 4], [2]])
    assert "spans" in segments.to("meta").__dict__
    assert segments.to("meta").max_length == 4


@needs_gpu
@pytest.mark.parametrize("layout", [*LAYOUTS, "long"])
@pytest.mark.parametrize(("window", "width"), [(None, 64), (100, 64), (None, 40), (3, 128)])
def test_on_a_gpu_it_loses_no_more_than_bf16_does(layout, window, width):
    many = torch.Generator().manual_seed(0)
    long = torch.randint(1, 400, (2, 12), generator=many).tolist()
    lengths, total = LAYOUTS.get(layout, (long, None))
    segments = Segments.from_lengths(lengths, total).to("cuda")
    shape = segments.shape
    wide = torch.randn(*shape, 12, width, device="cuda", dtype=torch.bfloat16)
    given = [x.detach().requires_grad_() for x in wide.split((6, 3, 3), dim=2)]
    exact = [x.detach().double().requires_grad_() for x in given]

    def form(inputs, impl):
        q, k, v = inputs
        o, _ = attention(q, k, v, segments=segments, window=window, impl=impl, return_state=False)
        return (o.double().cpu(),)

    dispatch.reset()
    ours = with_gradients(lambda: form(given, "auto"), given)
    assert dispatch.used()["attention"] == "varlen"
    truth = with_gradients(lambda: form(exact, "naive"), exact)
    least = 1e-3 * float(truth[0].norm())  # a token alone has no gradient of query and key
    for found, expected in zip(ours, truth, strict=True):
        size = max(float(expected.norm()), least)
        assert float((found.double() - expected).norm()) < BF16_L2["attention"] * size
