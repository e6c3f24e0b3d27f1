"""Expansion and absorption against the formula written out, and which of them runs when."""

from __future__ import annotations

import pytest
import torch

from braidlm.errors import InputError
from braidlm.ops import dispatch
from braidlm.ops.attention import KVCache, reserve
from braidlm.ops.latent import latent_attention
from braidlm.segments import Segments
from tests.ops.compare import assert_near, assert_same, layouts, leaf, only_real, relative_l2
from tests.tolerances import BF16_L2

H, C, N, V = 3, 7, 4, 5


def inputs(length, rope=2, dtype=torch.float64):
    return [
        leaf(2, length, H, N + rope, dtype=dtype),
        leaf(2, length, C + rope, dtype=dtype),
        leaf(H * (N + V), C, dtype=dtype),
    ]


def held(n_docs, lengths, rope=2) -> KVCache:
    lengths = torch.tensor([lengths[d % len(lengths)] for d in range(n_docs)])
    return KVCache(leaf(n_docs, 9, 1, C + rope), torch.zeros(n_docs, 9, 1, 0).double(), lengths)


CASES = [
    *((n, None, "rows") for n in (1, 63, 65)),
    *((65, None, name) for name in ("packed", "edges", "padded")),
    *((n, (5, 5), "rows") for n in (1, 65)),
    (3, (0, 9), "rows"),
    *((65, (4, 0, 9), name) for name in ("packed", "edges", "padded")),
    (300, (6, 2), "rows"),
]


@pytest.mark.parametrize("impl", ["expand", "absorb"])
@pytest.mark.parametrize(("length", "lengths", "layout"), CASES)
@pytest.mark.parametrize("rope", [2, 0])
def test_each_form_is_the_formula(impl, length, lengths, layout, rope):
    segments = layouts(length, 16)[layout]
    given = inputs(length, rope)
    n_docs = 2 if segments is None else segments.n_docs
    cache = None if lengths is None else held(n_docs, lengths, rope)

    def form(impl):
        q, latent, up = given
        o, new = latent_attention(
            q, latent, up, rank=C, segments=segments, cache=cache, scale=0.7, impl=impl
        )
        assert new is not None
        return only_real(o, segments), new.k, new.length

    tensors = given if cache is None else [*given, cache.k]
    assert_same(lambda: form(impl), lambda: form("naive"), tensors)


def test_the_formula_by_hand():
    """Two tokens, one head: weights and values written out."""
    q, latent, up = leaf(1, 2, 1, 3), leaf(1, 2, 3), leaf(3, 2)
    o, cache = latent_attention(q, latent, up, rank=2, scale=0.5)
    assert cache is not None
    assert torch.equal(cache.k[0, :, 0], latent[0])
    assert cache.v.numel() == 0
    u_k, u_v = up[:2], up[2:]
    keys = torch.cat((latent[0, :, :2] @ u_k.T, latent[0, :, 2:]), dim=-1)
    values = latent[0, :, :2] @ u_v.T
    p = (0.5 * keys @ q[0, 1, 0]).softmax(0)
    assert_near(o[0, 1, 0], p @ values)
    assert_near(o[0, 0, 0], values[0])


@pytest.mark.parametrize("impl", ["expand", "absorb"])
def test_bf16_is_as_near_as_its_digits_allow(impl):
    torch.manual_seed(0)
    quantised = [x.detach().bfloat16() for x in inputs(40)]
    cache = KVCache(
        torch.randn(2, 30, 1, C + 2).bfloat16(),
        torch.zeros(2, 30, 1, 0).bfloat16(),
        torch.tensor([30, 11]),
    )
    q, latent, up = quantised
    found, _ = latent_attention(q, latent, up, rank=C, cache=cache, impl=impl)
    wide = KVCache(cache.k[:, :30].double(), cache.v.double(), cache.length)
    truth, _ = latent_attention(
        q.double(), latent.double(), up.double(), rank=C, cache=wide, impl="naive"
    )
    assert relative_l2(found, truth) < BF16_L2["latent attention"]


def test_a_donated_cache_is_written_in_place_and_reserved_room_stays():
    q, latent, up = (x.detach() for x in inputs(6))
    with torch.no_grad():
        whole, _ = latent_attention(q, latent, up, rank=C)
        _, cache = latent_attention(q[:, :3], latent[:, :3], up, rank=C)
        assert cache is not None
        roomy = reserve(cache, 3)
        place, outputs = roomy.k.data_ptr(), []
        for t in range(3, 6):
            o, roomy = latent_attention(
                q[:, t : t + 1], latent[:, t : t + 1], up, rank=C, cache=roomy
            )
            assert roomy is not None
            outputs.append(o)
    assert roomy.k.data_ptr() == place
    assert roomy.length.tolist() == [6, 6]
    assert_near(torch.cat(outputs, dim=1), whole[:, 3:])


def chosen(n_new, cache, segments=None):
    q, latent, up = inputs(n_new)
    dispatch.reset()
    latent_attention(q, latent, up, rank=C, cache=cache, segments=segments)
    return dispatch.used()["latent_attention"]


def test_auto_runs_the_form_with_fewer_products():
    # 2 (C + R) - (N + R + V) = 7 products more per query, C (N + V) = 63 fewer per entry: up to 9.
    assert chosen(9, None) == "expand"
    assert chosen(9, held(2, (5, 5))) == "absorb"
    assert chosen(10, held(2, (5, 5))) == "expand"
    assert chosen(10, held(4, (5, 5)), Segments.from_lengths([(4, 6), (1, 9)])) == "absorb"


def test_what_does_not_fit_is_refused():
    q, latent, up = inputs(4)
    with pytest.raises(ValueError, match="rank=20 does not fit"):
        latent_attention(q, latent, up, rank=20)
    full = held(2, (1, 1))._replace(v=torch.zeros(2, 9, 1, 7))
    with pytest.raises(ValueError, match=r"cache.v has shape \(2, 9, 1, 7\)"):
        latent_attention(q, latent, up, rank=C, cache=full)
    with pytest.raises(ValueError, match="up has shape"):
        latent_attention(q, latent, up[:-1], rank=C)
    with pytest.raises(ValueError, match="they must be"):
        latent_attention(q[0], latent, up, rank=C)
    with pytest.raises(InputError, match="impl='flash' of latent_attention is unknown"):
        latent_attention(q, latent, up, rank=C, impl="flash")
