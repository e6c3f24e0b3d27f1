"""The Triton kernels of the gated delta rule; `triton.py` launches them and lays everything out.

Letters as there: Q tokens of a chunk, D and V channels of a key and of a value, R heads of a group.
`BD` is D rounded up to a power of two and `BV` a block of values: what lies beyond is zero. Values,
outputs and states lie here with their channels first, (BV, Q) and (BV, BD): then every product has
what was just computed on its left, where it stays in registers, and what was loaded on its right.
What was computed is never transposed to stand on the left: Triton before 3.7.1 gets that wrong on
Hopper. `cum` is the log decay since the chunk's start; no exponent is positive.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(base, t, stride, columns, end, WIDTH: tl.constexpr):
    """Rows t and all columns of a (T, WIDTH) matrix, zero outside."""
    mask = (t < end)[:, None]
    if columns.shape[0] != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    return tl.load(base + t.to(tl.int64)[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _columns(base, t, stride, rows, end, WIDTH: tl.constexpr):
    """The same matrix with its rows as columns: channels `rows` of tokens t."""
    mask = (t < end)[None, :] & (rows < WIDTH)[:, None]
    return tl.load(base + t.to(tl.int64)[None, :] * stride + rows[:, None], mask=mask, other=0.0)


@triton.jit
def _put_columns(base, t, stride, rows, end, value, WIDTH: tl.constexpr):
    mask = (t < end)[None, :] & (rows < WIDTH)[:, None]
    tl.store(base + t.to(tl.int64)[None, :] * stride + rows[:, None], value, mask=mask)


@triton.jit
def _product(a, b):
    """a @ b in fp32; fp32 inputs are not cut to tf32."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _add_product(a, b, acc):
    return tl.dot(a, b, acc=acc, input_precision="ieee")


@triton.jit
def _span(spans_ptr, i, n_chunks, T, Q: tl.constexpr, HAS_DOC: tl.constexpr):
    """Row, first token and end of the tokens that chunk i may read."""
    if HAS_DOC:
        row = tl.load(spans_ptr + i * 3).to(tl.int64)
        start = tl.load(spans_ptr + i * 3 + 1)
        end = tl.load(spans_ptr + i * 3 + 2)
    else:
        row = i // n_chunks
        start = ((i % n_chunks) * Q).to(tl.int32)
        end = T
    return row, start, end


@triton.jit
def _document(docs_ptr, d, n_chunks, T, HAS_DOC: tl.constexpr):
    """Row, first token, end, and first chunk of document d."""
    if HAS_DOC:
        row = tl.load(docs_ptr + d * 4).to(tl.int64)
        start = tl.load(docs_ptr + d * 4 + 1)
        end = tl.load(docs_ptr + d * 4 + 2)
        first = tl.load(docs_ptr + d * 4 + 3).to(tl.int64)
    else:
        row = d.to(tl.int64)
        start = d * 0
        end = T
        first = row * n_chunks
    return row, start, end, first


@triton.jit
def _merged(inverse, system, SIZE: tl.constexpr, ROUGH: tl.constexpr):
    """Inverses of blocks of SIZE on the diagonal -> of blocks of twice that.

    With the inverses P and R of two neighbours and C, what lies below the first, that of both
    has -R C P there. Powers of the matrix, which grow, are never formed.
    """
    i = tl.arange(0, system.shape[0])[:, None]
    j = tl.arange(0, system.shape[0])[None, :]
    is_below = (i // SIZE != j // SIZE) & (i // (2 * SIZE) == j // (2 * SIZE))
    left = tl.dot(inverse, tl.where(is_below, system, 0.0), input_precision=ROUGH)
    return inverse - tl.dot(left, inverse, input_precision=ROUGH)


@triton.jit
def _inverse(system, identity, Q: tl.constexpr, ROUGH: tl.constexpr, PRECISE: tl.constexpr):
    """(I + system)^-1 of a strictly lower (Q, Q) matrix.

    Where products are rough, a step of Newton's follows: an error E becomes one of the order E^2.
    """
    i = tl.arange(0, Q)
    inverse = identity - tl.where(i[:, None] // 2 == i[None, :] // 2, system, 0.0)
    inverse = _merged(inverse, system, 2, ROUGH)
    inverse = _merged(inverse, system, 4, ROUGH)
    inverse = _merged(inverse, system, 8, ROUGH)
    if Q > 16:
        inverse = _merged(inverse, system, 16, ROUGH)
    if Q > 32:
        inverse = _merged(inverse, system, 32, ROUGH)
    if ROUGH != PRECISE:
        error = identity - inverse - tl.dot(system, inverse, input_precision=PRECISE)
        inverse += tl.dot(inverse, error, input_precision=ROUGH)
    return inverse


@triton.jit
def prepare(
    q_ptr, k_ptr, g_ptr, beta_ptr, spans_ptr, cum_ptr, strength_ptr, solve_ptr, score_ptr,
    sqb, sqt, sqh, skb, skt, skh, sgb, sgt, sbb, sbt,
    T, H, R, n_chunks, scale,
    HAS_DOC: tl.constexpr, Q: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    ROUGH: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """What of one chunk and head depends on no state.

    cum and strength (beta, zero past the end) -> (n, H, Q). With A, the keys' strictly lower
    products, A (I + Diag(beta) A)^-1 -> solve; queries' products with keys -> score: (n, H, Q, Q).
    """
    c = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1)
    q, d = tl.arange(0, Q), tl.arange(0, BD)
    span = _span(spans_ptr, c, n_chunks, T, Q, HAS_DOC)
    row, start, end = span[0], span[1], span[2]
    t = start + q
    wide = t.to(tl.int64)
    g = tl.load(g_ptr + row * sgb + wide * sgt + h, mask=t < end, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + row * sbb + wide * sbt + h, mask=t < end, other=0.0).to(tl.float32)
    cum = tl.cumsum(tl.maximum(g, -104.0), 0)  # exp of that is zero
    at = (c * H + h) * Q
    tl.store(cum_ptr + at + q, cum)
    tl.store(strength_ptr + at + q, beta)
    ks = _rows(k_ptr + row * skb + (h // R) * skh, t, skt, d, end, D)
    qs = _rows(q_ptr + row * sqb + (h // R) * sqh, t, sqt, d, end, D)
    kind = ks.dtype
    decay = tl.exp(tl.minimum(cum[:, None] - cum[None, :], 0.0))
    square = q[:, None] * Q + q[None, :]
    score = tl.where(q[:, None] >= q[None, :], _product(qs, tl.trans(ks)) * decay * scale, 0.0)
    tl.store(score_ptr + at * Q + square, score.to(kind))
    keys = tl.where(q[:, None] > q[None, :], _product(ks, tl.trans(ks)) * decay, 0.0)
    identity = tl.where(q[:, None] == q[None, :], 1.0, 0.0)
    inverse = _inverse(keys * beta[:, None], identity, Q, ROUGH, PRECISE)
    solve = tl.dot(keys, inverse, input_precision=PRECISE)
    tl.store(solve_ptr + at * Q + square, solve.to(kind))


@triton.jit
def forward(
    q_ptr, k_ptr, v_ptr, docs_ptr, cum_ptr, strength_ptr, solve_ptr, score_ptr, first_ptr,
    y_ptr, last_ptr,
    sqb, sqt, sqh, skb, skt, skh, svb, svt, svh,
    T, H, R, n_chunks, scale,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr, Q: tl.constexpr,
    D: tl.constexpr, BD: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y of one document, head and block of values; the state after it -> last (n_docs, H, D, V)."""
    p = tl.program_id(0) * BV + tl.arange(0, BV)
    h = tl.program_id(1)
    doc = tl.program_id(2)
    q, d = tl.arange(0, Q), tl.arange(0, BD)
    place = _document(docs_ptr, doc, n_chunks, T, HAS_DOC)
    row, start, end, chunk = place[0], place[1], place[2], place[3]
    kind = v_ptr.dtype.element_ty
    mine = (doc.to(tl.int64) * H + h) * D * V
    inside = (p < V)[:, None] & (d < D)[None, :]
    state = tl.zeros((BV, BD), tl.float32)
    if HAS_FIRST:
        whole = d[None, :] * V + p[:, None]
        state += tl.load(first_ptr + mine + whole, mask=inside, other=0.0).to(tl.float32)
    q_ptr += row * sqb + (h // R) * sqh
    k_ptr += row * skb + (h // R) * skh
    v_ptr += row * svb + h * svh
    y_ptr += (row * T * H + h) * V
    square = q[:, None] * Q + q[None, :]
    for i in tl.range(0, tl.cdiv(end - start, Q), num_stages=STAGES):
        t = start + i * Q + q
        at = ((chunk + i) * H + h) * Q
        cum = tl.load(cum_ptr + at + q)
        until = tl.load(cum_ptr + at + Q - 1)
        beta = tl.load(strength_ptr + at + q)
        ks = _rows(k_ptr, t, skt, d, end, D)
        qs = _rows(q_ptr, t, sqt, d, end, D)
        vs = _columns(v_ptr, t, svt, p, end, V)
        solve = tl.load(solve_ptr + at * Q + square)
        score = tl.load(score_ptr + at * Q + square)
        since = tl.exp(cum)
        held = state.to(kind)
        missing = vs.to(tl.float32) - _product(held, tl.trans(ks)) * since[None, :]
        missing -= _product((missing * beta[None, :]).to(kind), tl.trans(solve))
        change = missing * beta[None, :]
        ys = _product(held, tl.trans(qs)) * (since * scale)[None, :]
        ys = _add_product(change.to(kind), tl.trans(score), ys)
        _put_columns(y_ptr, t, H * V, p, end, ys.to(kind), V)
        change *= tl.exp(until - cum)[None, :]
        state = _add_product(change.to(kind), ks, state * tl.exp(until))
    if HAS_LAST:
        whole = d[None, :] * V + p[:, None]
        tl.store(last_ptr + mine + whole, state, mask=inside)
