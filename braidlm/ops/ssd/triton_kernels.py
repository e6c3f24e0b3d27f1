"""The Triton kernels of SSD; `triton.py` launches them and says how everything is laid out.

Letters as there: Q tokens of a chunk, P width of a head, N of the state, R heads of a group. `BP`
and `BN` are P and N rounded up to a power of two: columns beyond are zero. A chunk's decays come
from `cum`, its log decay since the chunk's start. Of token i exp(end - cum_i) is left at the end,
of what entered exp(cum_j) at token j, and of i at j exp(cum_j - cum_i), unless the documents of the
two differ: `doc` is -1 at padding, and -2 stands before a row.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(base, t, stride, columns, T, WIDTH: tl.constexpr):
    """Rows t and all columns of a (T, WIDTH) matrix, zero outside."""
    mask = (t < T)[:, None]
    if columns.shape[0] != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    return tl.load(base + t.to(tl.int64)[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _put_rows(base, t, stride, columns, T, value, WIDTH: tl.constexpr):
    mask = (t < T)[:, None]
    if columns.shape[0] != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    tl.store(base + t.to(tl.int64)[:, None] * stride + columns[None, :], value, mask=mask)


@triton.jit
def _product(a, b):
    """a @ b in fp32; fp32 inputs are not cut to tf32."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _add_product(a, b, acc):
    return tl.dot(a, b, acc=acc, input_precision="ieee")


@triton.jit
def _scaled(rows, factor):
    """Each row times its factor, in the dtype of the rows."""
    return (rows.to(tl.float32) * factor[:, None]).to(rows.dtype)


@triton.jit
def _document_before(doc_ptr, start):
    """Document of the token before `start`; -2 before the row."""
    return tl.load(doc_ptr + start - 1, mask=start > 0, other=-2)


@triton.jit
def prepare(
    dt_ptr, A_ptr, out_ptr, cum_ptr, sdb, sdt, T, H,
    Q: tl.constexpr, HB: tl.constexpr,
):  # fmt: skip
    """dt (B, T, H) -> dt and cum, both (B, H, n_chunks * Q); steps past the end are zero."""
    k = tl.program_id(0)
    h = tl.program_id(1) * HB + tl.arange(0, HB)
    b = tl.program_id(2).to(tl.int64)
    t = k * Q + tl.arange(0, Q)
    a = tl.load(A_ptr + h, mask=h < H, other=0.0).to(tl.float32)
    ok = (t < T)[:, None] & (h < H)[None, :]
    dt = tl.load(dt_ptr + b * sdb + t.to(tl.int64)[:, None] * sdt + h[None, :], mask=ok, other=0.0)
    dt = dt.to(tl.float32)
    cum = tl.cumsum(tl.maximum(dt * a[None, :], -104.0), 0)  # exp of that is zero
    place = (b * H + h[None, :]) * (tl.num_programs(0) * Q) + t[:, None]
    tl.store(out_ptr + place, dt, mask=(h < H)[None, :])
    tl.store(cum_ptr + place, cum, mask=(h < H)[None, :])


@triton.jit
def forward(
    x_ptr, dt_ptr, cum_ptr, B_ptr, C_ptr, D_ptr, doc_ptr, first_ptr, y_ptr, last_ptr,
    sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg,
    T, H, R, Tp, per_piece,
    HAS_FIRST: tl.constexpr, HAS_D: tl.constexpr, HAS_DOC: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y of one piece, head and row; the state after it -> last (B, n_pieces, H, BN, BP).

    first: (B, n_pieces, H, BN, BP), what enters each piece.
    """
    h = tl.program_id(0)
    piece = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    kind = x_ptr.dtype.element_ty
    square = n[:, None] * BP + p[None, :]
    mine = ((b * tl.num_programs(1) + piece) * H + h) * BN * BP
    state = tl.zeros((BN, BP), tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + mine + square)
    skip = 0.0
    if HAS_D:
        skip = tl.load(D_ptr + h).to(tl.float32)
    x_ptr += b * sxb + h * sxh
    y_ptr += (b * T * H + h) * P
    B_ptr += b * sbb + (h // R) * sbg
    C_ptr += b * scb + (h // R) * scg
    dt_ptr += (b * H + h) * Tp
    cum_ptr += (b * H + h) * Tp
    sees = q[:, None] >= q[None, :]
    begin = piece * per_piece * Q
    stop = tl.minimum(begin + per_piece * Q, T)
    before = -2
    if HAS_DOC:
        doc_ptr += b * T
        before = _document_before(doc_ptr, begin)
    for start in tl.range(begin, stop, Q, num_stages=STAGES):
        t = start + q
        dt = tl.load(dt_ptr + t)
        cum = tl.load(cum_ptr + t)
        end = tl.load(cum_ptr + start + Q - 1)
        xs = _rows(x_ptr, t, sxt, p, T, P)
        bs = _rows(B_ptr, t, sbt, n, T, N)
        cs = _rows(C_ptr, t, sct, n, T, N)
        lives = sees
        enters = tl.exp(cum)
        leaves = tl.exp(end - cum) * dt
        gain = tl.exp(end)
        if HAS_DOC:
            doc = tl.load(doc_ptr + t, mask=t < T, other=-1)
            ends = tl.load(doc_ptr + tl.minimum(start + Q, T) - 1)
            lives = lives & (doc[:, None] == doc[None, :])
            enters = tl.where(doc == before, enters, 0.0)
            leaves = tl.where(doc == ends, leaves, 0.0)
            gain = tl.where(before == ends, gain, 0.0)
            before = ends
        decay = tl.exp(tl.where(lives, cum[:, None] - cum[None, :], float("-inf")))
        weights = decay * _product(cs, tl.trans(bs)) * dt[None, :]
        ys = _product(cs, state.to(kind)) * enters[:, None]
        ys = _add_product(weights.to(kind), xs, ys)
        if HAS_D:
            ys += skip * xs.to(tl.float32)
        _put_rows(y_ptr, t, H * P, p, T, ys.to(kind), P)
        state = _add_product(tl.trans(bs), _scaled(xs, leaves), state * gain)
    tl.store(last_ptr + mine + square, state)


@triton.jit
def accumulate(
    v_ptr, dt_ptr, cum_ptr, K_ptr, doc_ptr, first_ptr, each_ptr, last_ptr, gain_ptr,
    svb, svt, svh, skb, skt, skg,
    T, H, R, Tp, n_chunks, per_piece,
    BACK: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_EACH: tl.constexpr, HAS_DOC: tl.constexpr,
    Q: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """S <- gain S + K^T v over the chunks of one piece, forward in time or back.

    Forward, v is x and K is B: the state, on its way to the end. Back, v is dy and K is C: its
    gradient, on its way to the beginning. What stood before each chunk -> each (B, n_chunks, H, BN,
    BP) in the dtype of v; after all -> last (B, n_pieces, H, BN, BP); product of gains -> gain.
    """
    h = tl.program_id(0)
    piece = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    kind = v_ptr.dtype.element_ty
    square = n[:, None] * BP + p[None, :]
    mine = ((b * tl.num_programs(1) + piece) * H + h) * BN * BP
    state = tl.zeros((BN, BP), tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + mine + square)
    v_ptr += b * svb + h * svh
    K_ptr += b * skb + (h // R) * skg
    dt_ptr += (b * H + h) * Tp
    cum_ptr += (b * H + h) * Tp
    if HAS_DOC:
        doc_ptr += b * T
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, n_chunks)
    total = 1.0
    for i in tl.range(begin, stop, num_stages=STAGES):
        k = begin + stop - 1 - i if BACK else i
        start = k * Q
        t = start + q
        cum = tl.load(cum_ptr + t)
        end = tl.load(cum_ptr + start + Q - 1)
        vs = _rows(v_ptr, t, svt, p, T, P)
        ks = _rows(K_ptr, t, skt, n, T, N)
        gain = tl.exp(end)
        weight = tl.exp(cum) if BACK else tl.exp(end - cum) * tl.load(dt_ptr + t)
        if HAS_DOC:
            doc = tl.load(doc_ptr + t, mask=t < T, other=-1)
            ends = tl.load(doc_ptr + tl.minimum(start + Q, T) - 1)
            before = _document_before(doc_ptr, start)
            weight = tl.where(doc == (before if BACK else ends), weight, 0.0)
            gain = tl.where(before == ends, gain, 0.0)
        if HAS_EACH:
            place = ((b * n_chunks + k) * H + h) * BN * BP
            tl.store(each_ptr + place + square, state.to(kind))
        state = _add_product(tl.trans(ks), _scaled(vs, weight), state * gain)
        total *= gain
    tl.store(last_ptr + mine + square, state)
    tl.store(gain_ptr + (b * tl.num_programs(1) + piece) * H + h, total)


@triton.jit
def carry(
    last_ptr, gain_ptr, first_ptr, into_ptr, out_ptr, n_pieces, H, size,
    BACK: tl.constexpr, HAS_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What enters each piece, from what each adds (both (B, n_pieces, H, size)) and keeps.

    first: (B, H, size), what enters the first of them; after the last -> out, alike.
    """
    h = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    ok = cell < size
    state = tl.zeros((BLOCK,), tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + (b * H + h) * size + cell, mask=ok, other=0.0)
    for i in range(n_pieces):
        piece = b * n_pieces + (n_pieces - 1 - i if BACK else i)
        place = (piece * H + h) * size + cell
        tl.store(into_ptr + place, state, mask=ok)
        added = tl.load(last_ptr + place, mask=ok, other=0.0)
        state = state * tl.load(gain_ptr + piece * H + h) + added
    tl.store(out_ptr + (b * H + h) * size + cell, state, mask=ok)


@triton.jit
def d_projections(
    x_ptr, dt_ptr, cum_ptr, B_ptr, C_ptr, doc_ptr, dy_ptr, s_ptr, ds_ptr,
    enter_ptr, gain_ptr, dB_ptr, dC_ptr,
    sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg, syb, syt, syh,
    T, H, R, Tp, n_chunks,
    HAS_DOC: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dB and dC of one chunk and group, summed over its heads.

    What is found on the way, by what entered the chunk: the gradient of cum_j by token -> enter
    (B, H, Tp), and of the whole chunk's log decay -> gain (B, n_chunks, H).
    """
    k = tl.program_id(0)
    g = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    square = n[:, None] * BP + p[None, :]
    start = k * Q
    t = start + q
    cs = _rows(C_ptr + b * scb + g * scg, t, sct, n, T, N)
    kind = cs.dtype
    lives = q[:, None] >= q[None, :]
    can_enter = t < T
    can_leave = t < T
    keeps = 1.0
    if HAS_DOC:
        doc_ptr += b * T
        doc = tl.load(doc_ptr + t, mask=t < T, other=-1)
        ends = tl.load(doc_ptr + tl.minimum(start + Q, T) - 1)
        before = _document_before(doc_ptr, start)
        lives = lives & (doc[:, None] == doc[None, :])
        can_enter = doc == before
        can_leave = doc == ends
        keeps = tl.where(before == ends, 1.0, 0.0)
    d_scores = tl.zeros((Q, Q), tl.float32)
    d_b = tl.zeros((Q, BN), tl.float32)
    d_c = tl.zeros((Q, BN), tl.float32)
    for r in tl.range(0, R, num_stages=STAGES):
        h = g * R + r
        row = (b * H + h) * Tp
        dt = tl.load(dt_ptr + row + t)
        cum = tl.load(cum_ptr + row + t)
        end = tl.load(cum_ptr + row + start + Q - 1)
        xs = _rows(x_ptr + b * sxb + h * sxh, t, sxt, p, T, P)
        ys = _rows(dy_ptr + b * syb + h * syh, t, syt, p, T, P)
        place = ((b * n_chunks + k) * H + h) * BN * BP
        state = tl.load(s_ptr + place + square)
        ds = tl.load(ds_ptr + place + square)
        inner = tl.sum(tl.sum(state.to(tl.float32) * ds.to(tl.float32), 1), 0)
        tl.store(gain_ptr + (b * n_chunks + k) * H + h, inner * tl.exp(end) * keeps)
        enters = tl.where(can_enter, tl.exp(cum), 0.0)
        leaves = tl.where(can_leave, tl.exp(end - cum), 0.0) * dt
        by_state = _product(_scaled(ys, enters), tl.trans(state))
        tl.store(enter_ptr + row + t, tl.sum(by_state * cs.to(tl.float32), 1))
        d_c += by_state
        d_b = _add_product(_scaled(xs, leaves), tl.trans(ds), d_b)
        decay = tl.exp(tl.minimum(cum[:, None] - cum[None, :], 0.0))
        d_scores += _product(ys, tl.trans(xs)) * decay * dt[None, :]
    inside = tl.where(lives, d_scores, 0.0).to(kind)
    bs = _rows(B_ptr + b * sbb + g * sbg, t, sbt, n, T, N)
    d_c = _add_product(inside, bs, d_c)
    d_b = _add_product(tl.trans(inside), cs, d_b)
    width = H // R * N
    place = b * T * width + g * N
    _put_rows(dB_ptr + place, t, width, n, T, d_b.to(kind), N)
    _put_rows(dC_ptr + place, t, width, n, T, d_c.to(kind), N)


@triton.jit
def d_inputs(
    x_ptr, dt_ptr, cum_ptr, B_ptr, C_ptr, D_ptr, doc_ptr, dy_ptr, ds_ptr, enter_ptr, gain_ptr,
    dx_ptr, d_dt_ptr, d_cum_ptr, d_D_ptr,
    sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg, syb, syt, syh,
    T, H, R, Tp, n_chunks,
    HAS_D: tl.constexpr, HAS_DOC: tl.constexpr, HB: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx of one chunk and HB heads of a group; gradients by dt and by cum -> (B, H, Tp) each, and
    the chunk's share of dD -> (B, n_chunks, H).

    `enter` and `gain` are what `d_projections` found.
    """
    k = tl.program_id(0)
    h0 = tl.program_id(1) * HB
    b = tl.program_id(2).to(tl.int64)
    g = h0 // R
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    square = n[:, None] * BP + p[None, :]
    start = k * Q
    t = start + q
    bs = _rows(B_ptr + b * sbb + g * sbg, t, sbt, n, T, N)
    cs = _rows(C_ptr + b * scb + g * scg, t, sct, n, T, N)
    kind = bs.dtype
    lives = q[:, None] >= q[None, :]
    can_leave = t < T
    if HAS_DOC:
        doc_ptr += b * T
        doc = tl.load(doc_ptr + t, mask=t < T, other=-1)
        ends = tl.load(doc_ptr + tl.minimum(start + Q, T) - 1)
        lives = lives & (doc[:, None] == doc[None, :])
        can_leave = doc == ends
    scores = tl.where(lives, _product(cs, tl.trans(bs)), 0.0)
    for r in tl.range(0, HB, num_stages=STAGES):
        h = h0 + r
        row = (b * H + h) * Tp
        dt = tl.load(dt_ptr + row + t)
        cum = tl.load(cum_ptr + row + t)
        end = tl.load(cum_ptr + row + start + Q - 1)
        leaves = tl.where(can_leave, tl.exp(end - cum), 0.0)
        xs = _rows(x_ptr + b * sxb + h * sxh, t, sxt, p, T, P)
        ys = _rows(dy_ptr + b * syb + h * syh, t, syt, p, T, P)
        ds = tl.load(ds_ptr + ((b * n_chunks + k) * H + h) * BN * BP + square)
        weights = tl.exp(tl.minimum(cum[:, None] - cum[None, :], 0.0)) * scores
        from_end = _product(bs, ds)
        through = tl.sum(from_end * xs.to(tl.float32), 1) * leaves
        dx = from_end * (leaves * dt)[:, None]
        dx = _add_product(tl.trans((weights * dt[None, :]).to(kind)), ys, dx)
        if HAS_D:
            wide = ys.to(tl.float32)
            dx += tl.load(D_ptr + h).to(tl.float32) * wide
            d_skip = tl.sum(tl.sum(wide * xs.to(tl.float32), 1), 0)
            tl.store(d_D_ptr + (b * n_chunks + k) * H + h, d_skip)
        _put_rows(dx_ptr + (b * T * H + h) * P, t, H * P, p, T, dx.to(kind), P)
        weights *= _product(ys, tl.trans(xs))
        columns = tl.sum(weights, 0)
        d_cum = tl.sum(weights * dt[None, :], 1) - dt * (columns + through)
        d_cum += tl.load(enter_ptr + row + t)
        d_end = tl.sum(through * dt, 0) + tl.load(gain_ptr + (b * n_chunks + k) * H + h)
        d_cum += tl.where(q == Q - 1, d_end, 0.0)
        tl.store(d_dt_ptr + row + t, columns + through)
        tl.store(d_cum_ptr + row + t, d_cum)


@triton.jit
def finish(
    d_cum_ptr, d_dt_ptr, dt_ptr, A_ptr, out_ptr, d_A_ptr, T, H,
    Q: tl.constexpr, HB: tl.constexpr,
):  # fmt: skip
    """Gradients by cum and by dt -> d_dt (B, T, H), and each chunk's share of dA (B, n, H)."""
    k = tl.program_id(0)
    h = tl.program_id(1) * HB + tl.arange(0, HB)
    b = tl.program_id(2).to(tl.int64)
    t = k * Q + tl.arange(0, Q)
    mine = (h < H)[None, :]
    a = tl.load(A_ptr + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    place = (b * H + h[None, :]) * (tl.num_programs(0) * Q) + t[:, None]
    dt = tl.load(dt_ptr + place, mask=mine, other=0.0)
    d_step = tl.cumsum(tl.load(d_cum_ptr + place, mask=mine, other=0.0), 0, reverse=True)
    d_step = tl.where(dt * a > -104.0, d_step, 0.0)
    d_dt = tl.load(d_dt_ptr + place, mask=mine, other=0.0) + d_step * a
    where = (b * T + t.to(tl.int64)[:, None]) * H + h[None, :]
    tl.store(out_ptr + where, d_dt, mask=(t < T)[:, None] & mine)
    shares = d_A_ptr + (b * tl.num_programs(0) + k) * H + h
    tl.store(shares, tl.sum(d_step * dt, 0), mask=h < H)
