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
def _rows(base, start, q, stride, columns, end, WIDTH: tl.constexpr):
    """Rows start + q and all columns of a (T, WIDTH) matrix, zero outside."""
    mask = (start + q < end)[:, None] & (columns < WIDTH)[None, :]
    base += start.to(tl.int64) * stride
    return tl.load(base + (q[:, None] * stride + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def _put_rows(base, start, q, stride, columns, end, value, WIDTH: tl.constexpr):
    mask = (start + q < end)[:, None] & (columns < WIDTH)[None, :]
    base += start.to(tl.int64) * stride
    tl.store(base + (q[:, None] * stride + columns[None, :]), value, mask=mask)


@triton.jit
def _columns(base, start, q, stride, rows, end, WIDTH: tl.constexpr):
    """The same matrix with its rows as columns: channels `rows` of tokens start + q."""
    mask = (start + q < end)[None, :] & (rows < WIDTH)[:, None]
    base += start.to(tl.int64) * stride
    return tl.load(base + (q[None, :] * stride + rows[:, None]), mask=mask, other=0.0)


@triton.jit
def _put_columns(base, start, q, stride, rows, end, value, WIDTH: tl.constexpr):
    mask = (start + q < end)[None, :] & (rows < WIDTH)[:, None]
    base += start.to(tl.int64) * stride
    tl.store(base + (q[None, :] * stride + rows[:, None]), value, mask=mask)


@triton.jit
def _state(base, p, d, V: tl.constexpr, D: tl.constexpr):
    """A block of a state (V, D), zero outside."""
    mask = (p < V)[:, None] & (d < D)[None, :]
    return tl.load(base + p[:, None] * D + d[None, :], mask=mask, other=0.0)


@triton.jit
def _put_state(base, p, d, value, V: tl.constexpr, D: tl.constexpr):
    mask = (p < V)[:, None] & (d < D)[None, :]
    tl.store(base + p[:, None] * D + d[None, :], value, mask=mask)


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
def _rough(a, b, NARROW: tl.constexpr):
    """a @ b in bf16 if NARROW, where an error does not last."""
    if NARROW:
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _fine(a, b, NARROW: tl.constexpr):
    """a @ b to 16 bits or, if not NARROW, to 24."""
    if NARROW:
        return tl.dot(a, b, input_precision="bf16x3")
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _merged(inverse, system, SIZE: tl.constexpr, NARROW: tl.constexpr):
    """Inverses of blocks of SIZE on the diagonal -> of blocks of twice that.

    With the inverses P and R of two neighbours and C, what lies below the first, that of both
    has -R C P there. Powers of the matrix, which grow, are never formed.
    """
    i = tl.arange(0, system.shape[0])[:, None]
    j = tl.arange(0, system.shape[0])[None, :]
    is_below = (i // SIZE != j // SIZE) & (i // (2 * SIZE) == j // (2 * SIZE))
    left = _rough(inverse, tl.where(is_below, system, 0.0), NARROW)
    return inverse - _rough(left, inverse, NARROW)


@triton.jit
def _inverse(system, identity, Q: tl.constexpr, NARROW: tl.constexpr):
    """(I + system)^-1 of a strictly lower (Q, Q) matrix.

    After rough products a step of Newton's: an error E becomes one of the order E^2.
    """
    i = tl.arange(0, Q)
    inverse = identity - tl.where(i[:, None] // 2 == i[None, :] // 2, system, 0.0)
    inverse = _merged(inverse, system, 2, NARROW)
    inverse = _merged(inverse, system, 4, NARROW)
    inverse = _merged(inverse, system, 8, NARROW)
    if Q > 16:
        inverse = _merged(inverse, system, 16, NARROW)
    if Q > 32:
        inverse = _merged(inverse, system, 32, NARROW)
    if NARROW:
        error = identity - inverse - _fine(system, inverse, NARROW)
        inverse += _rough(inverse, error, NARROW)
    return inverse


@triton.jit
def prepare(
    q_ptr, k_ptr, g_ptr, beta_ptr, spans_ptr, cum_ptr, strength_ptr, since_ptr, until_ptr,
    solve_ptr, score_ptr,
    sqb, sqt, sqh, skb, skt, skh, sgb, sgt, sbb, sbt,
    T, H, R, n_chunks, scale,
    BACK: tl.constexpr, HAS_DOC: tl.constexpr, Q: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What of one chunk and head depends on no state.

    What is left of what entered the chunk -> since, and beta times what is left at its end ->
    until, (n, H, Q). With A, the keys' strictly lower products, and b = Diag(beta), -A (I + b A)^-1
    b -> solve, and queries' products with keys times b -> score, (n, H, Q, Q). On the way BACK the
    log decay since the chunk's start -> cum, and beta -> strength, too.
    """
    c = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1)
    q, d = tl.arange(0, Q), tl.arange(0, BD)
    span = _span(spans_ptr, c, n_chunks, T, Q, HAS_DOC)
    row, start, end = span[0], span[1], span[2]
    wide = (start + q).to(tl.int64)
    g = tl.load(g_ptr + row * sgb + wide * sgt + h, mask=wide < end, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + row * sbb + wide * sbt + h, mask=wide < end, other=0.0).to(tl.float32)
    cum = tl.cumsum(tl.maximum(g, -104.0), 0)  # exp of that is zero
    at = (c * H + h) * Q
    beta = tl.maximum(beta, 1e-30)  # the way back divides by it, and loses nothing
    if BACK:
        tl.store(cum_ptr + at + q, cum)
        tl.store(strength_ptr + at + q, beta)
    tl.store(since_ptr + at + q, tl.exp(cum))
    until = tl.exp(tl.sum(tl.where(q == Q - 1, cum, 0.0), 0) - cum)
    tl.store(until_ptr + at + q, until * beta)
    ks = _rows(k_ptr + row * skb + (h // R) * skh, start, q, skt, d, end, D)
    qs = _rows(q_ptr + row * sqb + (h // R) * sqh, start, q, sqt, d, end, D)
    kind = ks.dtype
    decay = tl.exp(tl.minimum(cum[:, None] - cum[None, :], 0.0))
    square = q[:, None] * Q + q[None, :]
    score = _product(qs, tl.trans(ks)) * decay * (beta * scale)[None, :]
    score = tl.where(q[:, None] >= q[None, :], score, 0.0)
    tl.store(score_ptr + at * Q + square, score.to(kind))
    keys = tl.where(q[:, None] > q[None, :], _product(ks, tl.trans(ks)) * decay, 0.0)
    identity = tl.where(q[:, None] == q[None, :], 1.0, 0.0)
    narrow: tl.constexpr = kind != tl.float32
    inverse = _inverse(keys * beta[:, None], identity, Q, narrow)
    solve = _fine(keys, inverse, narrow)
    tl.store(solve_ptr + at * Q + square, (solve * -beta[None, :]).to(kind))


@triton.jit
def forward(
    q_ptr, k_ptr, v_ptr, docs_ptr, since_ptr, until_ptr, solve_ptr, score_ptr, first_ptr, y_ptr,
    last_ptr, state_ptr, missing_ptr,
    sqb, sqt, sqh, skb, skt, skh, svb, svt, svh,
    T, H, R, n_chunks, scale,
    AGAIN: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    Q: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, V: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """y of one document, head and block of values; the state after it -> last (n_docs, H, D, V).

    AGAIN, on the way back: no y, but what enters each chunk -> state (n, H, V, D), and what was
    missing at its tokens -> missing (n, H, V, Q).
    """
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
        t = start + i * Q
        at = ((chunk + i) * H + h) * Q
        since = tl.load(since_ptr + at + q)
        gain = tl.load(since_ptr + at + Q - 1)
        until = tl.load(until_ptr + at + q)
        ks = _rows(k_ptr, t, q, skt, d, end, D)
        vs = _columns(v_ptr, t, q, svt, p, end, V)
        solve = tl.load(solve_ptr + at * Q + square)
        held = state.to(kind)
        missing = vs.to(tl.float32) - _product(held, tl.trans(ks)) * since[None, :]
        if AGAIN:
            _put_state(state_ptr + (chunk + i) * H * V * D + h * V * D, p, d, held, V, D)
            missing = _add_product(missing.to(kind), tl.trans(solve), missing)
            block = p[:, None] * Q + q[None, :]
            tl.store(missing_ptr + at * V + block, missing.to(kind), mask=(p < V)[:, None])
        else:
            qs = _rows(q_ptr, t, q, sqt, d, end, D)
            score = tl.load(score_ptr + at * Q + square)
            ys = _product(held, tl.trans(qs)) * (since * scale)[None, :]
            missing = _add_product(missing.to(kind), tl.trans(solve), missing)
            ys = _add_product(missing.to(kind), tl.trans(score), ys)
            _put_columns(y_ptr, t, q, H * V, p, end, ys.to(kind), V)
        change = missing * until[None, :]
        state = _add_product(change.to(kind), ks, state * gain)
    if HAS_LAST:
        whole = d[None, :] * V + p[:, None]
        tl.store(last_ptr + mine + whole, state, mask=inside)


@triton.jit
def backward(
    q_ptr, k_ptr, dy_ptr, docs_ptr, since_ptr, until_ptr, solve_ptr, score_ptr, d_last_ptr,
    dv_ptr, d_state_ptr, d_first_ptr,
    sqb, sqt, sqh, skb, skt, skh, syb, syt, syh,
    T, H, R, n_chunks, scale,
    HAS_LAST: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_DOC: tl.constexpr, Q: tl.constexpr,
    D: tl.constexpr, BD: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dv of one document, head and block of values, from its last chunk to its first.

    The gradient of what leaves each chunk -> d_state (n, H, V, D), and of the initial state ->
    d_first (n_docs, H, D, V).
    """
    p = tl.program_id(0) * BV + tl.arange(0, BV)
    h = tl.program_id(1)
    doc = tl.program_id(2)
    q, d = tl.arange(0, Q), tl.arange(0, BD)
    place = _document(docs_ptr, doc, n_chunks, T, HAS_DOC)
    row, start, end, chunk = place[0], place[1], place[2], place[3]
    kind = dy_ptr.dtype.element_ty
    mine = (doc.to(tl.int64) * H + h) * D * V
    inside = (p < V)[:, None] & (d < D)[None, :]
    whole = d[None, :] * V + p[:, None]
    d_state = tl.zeros((BV, BD), tl.float32)
    if HAS_LAST:
        d_state += tl.load(d_last_ptr + mine + whole, mask=inside, other=0.0).to(tl.float32)
    q_ptr += row * sqb + (h // R) * sqh
    k_ptr += row * skb + (h // R) * skh
    dy_ptr += row * syb + h * syh
    dv_ptr += (row * T * H + h) * V
    square = q[:, None] * Q + q[None, :]
    count = tl.cdiv(end - start, Q)
    for back in tl.range(0, count, num_stages=STAGES):
        i = count - 1 - back
        t = start + i * Q
        at = ((chunk + i) * H + h) * Q
        since = tl.load(since_ptr + at + q)
        gain = tl.load(since_ptr + at + Q - 1)
        until = tl.load(until_ptr + at + q)
        ks = _rows(k_ptr, t, q, skt, d, end, D)
        qs = _rows(q_ptr, t, q, sqt, d, end, D)
        dys = _columns(dy_ptr, t, q, syt, p, end, V)
        solve = tl.load(solve_ptr + at * Q + square)
        score = tl.load(score_ptr + at * Q + square)
        held = d_state.to(kind)
        _put_state(d_state_ptr + (chunk + i) * H * V * D + h * V * D, p, d, held, V, D)
        d_found = _product(held, tl.trans(ks)) * until[None, :]
        d_found = _add_product(dys, score, d_found)
        read = (dys.to(tl.float32) * (since * scale)[None, :]).to(kind)
        d_state = _add_product(read, qs, d_state * gain)
        d_found = _add_product(d_found.to(kind), solve, d_found)
        _put_columns(dv_ptr, t, q, H * V, p, end, d_found.to(kind), V)
        d_state = _add_product((d_found * -since[None, :]).to(kind), ks, d_state)
    if HAS_FIRST:
        tl.store(d_first_ptr + mine + whole, d_state, mask=inside)


@triton.jit
def gradients(
    q_ptr, k_ptr, g_ptr, dy_ptr, dv_ptr, spans_ptr, cum_ptr, strength_ptr, since_ptr, until_ptr,
    state_ptr, d_state_ptr, missing_ptr, dq_ptr, dk_ptr, dg_ptr, d_beta_ptr,
    sqb, sqt, sqh, skb, skt, skh, sgb, sgt, syb, syt, syh,
    T, H, R, n_chunks, scale,
    HAS_DOC: tl.constexpr, Q: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    V: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dq and dk (B, T, H, D), dg and dbeta (B, T, H) of one chunk and head.

    L_i stands in exp(L_i) q_i, in exp(L_i) k_i where a key reads, and in exp(-L_i) k_i where it
    writes: its gradient is q_i dq_i + k_i (dk_i read - dk_i written), besides that of exp(L_c).
    That of beta_i is the product of dz_i / beta_i and of what was missing.
    """
    c = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1)
    q, d = tl.arange(0, Q), tl.arange(0, BD)
    span = _span(spans_ptr, c, n_chunks, T, Q, HAS_DOC)
    row, start, end = span[0], span[1], span[2]
    at = (c * H + h) * Q
    kind = dy_ptr.dtype.element_ty
    dy_ptr += row * syb + h * syh
    dv_ptr += (row * T * H + h) * V
    state_ptr += (c * H + h) * V * D
    d_state_ptr += (c * H + h) * V * D
    dq = tl.zeros((Q, BD), tl.float32)
    reads = tl.zeros((BD, Q), tl.float32)
    writes = tl.zeros((BD, Q), tl.float32)
    d_score = tl.zeros((Q, Q), tl.float32)
    d_pair = tl.zeros((Q, Q), tl.float32)
    inner = tl.zeros((BV,), tl.float32)
    for first in tl.range(0, V, BV, num_stages=STAGES):
        p = first + tl.arange(0, BV)
        dys = _rows(dy_ptr, start, q, syt, p, end, V)
        dvs = _rows(dv_ptr, start, q, H * V, p, end, V)
        block = p[:, None] * Q + q[None, :]
        missing = tl.load(missing_ptr + at * V + block, mask=(p < V)[:, None], other=0.0)
        state = _state(state_ptr, p, d, V, D)
        d_state = _state(d_state_ptr, p, d, V, D)
        dq = _add_product(dys, state, dq)
        reads = _add_product(tl.trans(state), tl.trans(dvs), reads)
        writes = _add_product(tl.trans(d_state), missing, writes)
        d_score = _add_product(dys, missing, d_score)
        d_pair = _add_product(dvs, missing, d_pair)
        inner += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), 1)
    cum = tl.load(cum_ptr + at + q)
    since = tl.load(since_ptr + at + q)
    gain = tl.load(since_ptr + at + Q - 1)
    until = tl.load(until_ptr + at + q)
    beta = tl.load(strength_ptr + at + q)
    qs = _rows(q_ptr + row * sqb + (h // R) * sqh, start, q, sqt, d, end, D)
    ks = _rows(k_ptr + row * skb + (h // R) * skh, start, q, skt, d, end, D)
    decay = tl.exp(tl.minimum(cum[:, None] - cum[None, :], 0.0)) * beta[None, :]
    d_beta = tl.sum(tl.where(q[:, None] == q[None, :], d_pair, 0.0), 1) / beta
    d_score = tl.where(q[:, None] >= q[None, :], d_score * decay * scale, 0.0).to(kind)
    d_pair = tl.where(q[:, None] > q[None, :], -d_pair * decay, 0.0).to(kind)
    dq = _add_product(d_score, ks, dq * (since * scale)[:, None])
    reads = _add_product(tl.trans(ks), tl.trans(d_pair), reads * -since[None, :])
    writes *= until[None, :]
    keys = tl.trans(ks).to(tl.float32)
    d_until = tl.sum(inner, 0) * gain + tl.sum(tl.sum(keys * writes, 0), 0)
    writes = _add_product(tl.trans(qs), d_score, writes)
    writes = _add_product(tl.trans(ks), d_pair, writes)
    d_cum = tl.sum(dq * qs.to(tl.float32), 1) + tl.sum(keys * (reads - writes), 0)
    d_cum += tl.where(q == Q - 1, d_until, 0.0)
    _put_rows(dq_ptr + (row * T * H + h) * D, start, q, H * D, d, end, dq.to(kind), D)
    _put_columns(
        dk_ptr + (row * T * H + h) * D, start, q, H * D, d, end, (reads + writes).to(kind), D
    )
    wide = (start + q).to(tl.int64)
    g = tl.load(g_ptr + row * sgb + wide * sgt + h, mask=wide < end, other=0.0).to(tl.float32)
    dg = tl.where(g > -104.0, tl.cumsum(d_cum, 0, reverse=True), 0.0)
    tl.store(dg_ptr + (row * T + wide) * H + h, dg, mask=wide < end)
    tl.store(d_beta_ptr + (row * T + wide) * H + h, d_beta, mask=wide < end)
