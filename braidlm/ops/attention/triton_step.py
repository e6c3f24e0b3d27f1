"""One query per document over a reserved cache on a GPU: keys are divided among programs.

Each program makes a softmax of its own over some of the places that are held, and a second kernel
joins them: with m_i the largest score and l_i the sum of program i, o = sum_i e^(m_i - m) o_i / l
where l = sum_i e^(m_i - m) l_i. How many places are held is read from the cache's length, so that
the host knows nothing of it and no free place is read. The first program also takes the new
token's key and value, and writes them behind the others.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, Reserved, Window
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.triton_launch import after_launch, early
from braidlm.segments import Segments

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

BLOCK = 64
"""Keys of a tile."""
PROGRAMS = 1024
"""That share the keys: a few for each processor of any machine."""
MOST_SHARES = 64
"""Of one document and head."""


def attention_step_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None,
    cache: KVCache,
    scoring: Scoring,
    window: Window | None,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """See `attention`: q (n, 1, Hq, D), no segments, no window; the cache is written in place."""
    del segments, window
    n, _, n_heads, width = q.shape
    n_places, n_kv = cache.k.shape[1:3]
    v_width, per_kv = v.shape[3], n_heads // n_kv
    shares = min(MOST_SHARES, PROGRAMS // (n * n_kv), -(-n_places // (2 * BLOCK)))
    shares = 1 << (max(shares, 1).bit_length() - 1)
    q, k, v = (_rows(x) for x in (q, k, v))
    part = torch.empty(n, n_heads, shares, v_width, dtype=torch.float32, device=q.device)
    sums = torch.empty(n, n_heads, shares, 2, dtype=torch.float32, device=q.device)
    o = torch.empty(n, 1, n_heads, v_width, dtype=q.dtype, device=q.device)
    _share[(n * n_kv, shares)](
        *(q, k, v, cache.k, cache.v, cache.length, part, sums),
        *(q.stride(0), k.stride(0), v.stride(0), n_places, n_kv, scoring.scale),
        G=per_kv,
        D=width,
        DV=v_width,
        BG=max(16, triton.next_power_of_2(per_kv)),
        BD=max(16, triton.next_power_of_2(width)),
        BV=max(16, triton.next_power_of_2(v_width)),
        BS=BLOCK,
        num_warps=2,
        **early(q),
    )
    length = torch.empty_like(cache.length)
    _join[(n * n_heads,)](
        *(part, sums, o, cache.length, length, n_heads),
        DV=v_width,
        BV=triton.next_power_of_2(v_width),
        SHARES=shares,
        num_warps=2,
        **early(q),
    )
    return o, (Reserved(cache.k, cache.v, length) if return_state else None)


def _rows(x: Tensor) -> Tensor:
    """(n, 1, H, D) -> (n, H, D), each row contiguous; a slice of a projection is not copied."""
    x = x[:, 0]
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


@triton_jit
def _share(
    q_ptr, k_ptr, v_ptr, held_k_ptr, held_v_ptr, length_ptr, part_ptr, sums_ptr,
    sq, sk, sv, n_places, n_kv, scale,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, BS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row, h = tl.program_id(0) // n_kv, tl.program_id(0) % n_kv
    share, shares = tl.program_id(1), tl.num_programs(1)
    g, d, e, s = tl.arange(0, BG), tl.arange(0, BD), tl.arange(0, BV), tl.arange(0, BS)
    scale = tl.cast(scale, tl.float32)  # torch's compiler hands over fp64
    after_launch(EARLY)
    length = tl.load(length_ptr + row).to(tl.int32)
    held = tl.minimum(length, n_places)
    each = tl.cdiv(tl.cdiv(held, shares), BS) * BS
    first = share * each
    last = tl.minimum(first + each, held)
    ok_q = (g < G)[:, None] & (d < D)[None, :]
    at_q = q_ptr + row.to(tl.int64) * sq + (h * G + g)[:, None] * D + d[None, :]
    q = tl.load(at_q, mask=ok_q, other=0.0)
    keys = held_k_ptr + (row.to(tl.int64) * n_places * n_kv + h) * D
    values = held_v_ptr + (row.to(tl.int64) * n_places * n_kv + h) * DV
    m = tl.full((BG,), float("-inf"), tl.float32)
    total = tl.zeros((BG,), tl.float32)
    o = tl.zeros((BG, BV), tl.float32)
    for start in range(first, last, BS):
        place = (start + s).to(tl.int64) * n_kv
        ok = start + s < last
        at_k = keys + place[None, :] * D + d[:, None]
        kt = tl.load(at_k, mask=ok[None, :] & (d < D)[:, None], other=0.0).to(q.dtype)
        scores = tl.dot(q, kt, input_precision="ieee") * scale
        scores = tl.where(ok[None, :], scores, float("-inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp(scores - m_new[:, None])
        kept = tl.exp(m - m_new)
        at_v = values + place[:, None] * DV + e[None, :]
        v = tl.load(at_v, mask=ok[:, None] & (e < DV)[None, :], other=0.0).to(q.dtype)
        o = tl.dot(p.to(q.dtype), v, o * kept[:, None], input_precision="ieee")
        total = total * kept + tl.sum(p, 1)
        m = m_new
    if share == 0:
        at_k = k_ptr + row.to(tl.int64) * sk + h * D + d
        k_new = tl.load(at_k, mask=d < D, other=0.0)
        v_new = tl.load(v_ptr + row.to(tl.int64) * sv + h * DV + e, mask=e < DV, other=0.0)
        place = length.to(tl.int64) * n_kv
        has_room = length < n_places
        tl.store(keys + place * D + d, k_new, mask=(d < D) & has_room)
        tl.store(values + place * DV + e, v_new, mask=(e < DV) & has_room)
        score = tl.sum(q.to(tl.float32) * k_new.to(tl.float32)[None, :], 1) * scale
        # A token without a place poisons what it gives: nobody takes that for an answer.
        score = tl.where(has_room, score, float("nan"))
        m_new = tl.maximum(m, score)
        kept, p = tl.exp(m - m_new), tl.exp(score - m_new)
        o = o * kept[:, None] + p[:, None] * v_new.to(tl.float32)[None, :]
        total = total * kept + p
        m = m_new
    at = (row * n_kv * G + h * G + g) * shares + share
    tl.store(sums_ptr + at * 2, m, mask=g < G)
    tl.store(sums_ptr + at * 2 + 1, total, mask=g < G)
    tl.store(part_ptr + at[:, None] * DV + e[None, :], o, mask=(g < G)[:, None] & (e < DV)[None, :])


@triton_jit
def _join(
    part_ptr, sums_ptr, o_ptr, length_ptr, after_ptr, n_heads,
    DV: tl.constexpr, BV: tl.constexpr, SHARES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The sum over programs, one head of a row each; a row's first head counts its new token."""
    i, e = tl.arange(0, SHARES), tl.arange(0, BV)
    after_launch(EARLY)
    row = tl.program_id(0) // n_heads
    if tl.program_id(0) % n_heads == 0:
        tl.store(after_ptr + row, tl.load(length_ptr + row) + 1)
    at = tl.program_id(0) * SHARES + i
    m = tl.load(sums_ptr + at * 2)
    weight = tl.exp(m - tl.max(m, 0))
    total = tl.sum(weight * tl.load(sums_ptr + at * 2 + 1), 0)
    inside = (e < DV)[None, :]
    o = tl.load(part_ptr + at[:, None] * DV + e[None, :], mask=inside, other=0.0)
    o = tl.sum(o * weight[:, None], 0) / total
    tl.store(o_ptr + tl.program_id(0) * DV + e, o, mask=e < DV)
