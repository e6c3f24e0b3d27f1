"""The Triton kernels of SSD; `triton.py` launches them and says how everything is laid out.

Letters as there: Q tokens of a chunk, P width of a head, N of the state, R heads of a group. `BP`
and `BN` are P and N rounded up to a power of two: columns beyond are zero. Decays are powers of
two: `cum` is the log2 of what a chunk's first i tokens leave, `key` the same less log2 dt; `tokens`
(at least 3, B, H, Tp) holds dt, cum and key. Of what entered 2^cum_i is left at token i, of what
token j brings 2^(cum_i - key_j), and 2^(end - key_j) at the chunk's end, unless their documents
differ: `opens` (B, Tp) holds the token of the chunk with which a token's own document begins, -1
where that was before the chunk.

A key holds dt to an ulp of cum, and a difference of two cum is no better: 2e-5 of what is left
where a chunk leaves 2^-300, far below what bf16 resolves. Where x is WIDE (fp32) dt is a factor of
its own, and key holds what cum lost when it was rounded.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LEAST = tl.constexpr(1.1754943508222875e-38)
"""The smallest number of fp32 that is not subnormal: a shorter step is none."""
LEAST_LEFT = tl.constexpr(-149.0)
"""The log2 of the smallest number of fp32 at all: what leaves less leaves nothing."""


@triton.jit
def _rows(base, start, q, stride, columns, T, WIDTH: tl.constexpr):
    """Rows start + q and all columns of a (T, WIDTH) matrix, zero outside. Inside a chunk offsets
    have 32 bits: wide ones cost a quarter of all instructions."""
    mask = (q < T - start)[:, None]
    if columns.shape[0] != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    base += tl.cast(start, tl.int64) * stride
    return tl.load(base + (q[:, None] * stride + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def _put_rows(base, start, q, stride, columns, T, value, WIDTH: tl.constexpr):
    mask = (q < T - start)[:, None]
    if columns.shape[0] != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    base += tl.cast(start, tl.int64) * stride
    tl.store(base + (q[:, None] * stride + columns[None, :]), value, mask=mask)


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
def _left(then, then_key, cum, key, WIDE: tl.constexpr):
    """The log2 of what is left, where `then` is the cum, of what tokens (cum, key) brought; where
    it is WIDE, of what a step of one would have brought."""
    if WIDE:
        return (then - cum) + (then_key - key)
    return then - key


@triton.jit
def prepare(
    dt_ptr, A_ptr, doc_ptr, position_ptr, tokens_ptr, opens_ptr, sdb, sdt, T, H,
    HAS_DOC: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, HB: tl.constexpr,
):  # fmt: skip
    """dt (B, T, H) -> tokens; steps at padding and past the end are zero. doc and position (B, T)
    -> opens."""
    k = tl.program_id(0)
    h = tl.program_id(1) * HB + tl.arange(0, HB)
    b = tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)
    t = k * Q + q
    a = tl.load(A_ptr + h, mask=h < H, other=0.0).to(tl.float32)
    is_real = t < T
    if HAS_DOC:
        is_real = is_real & (tl.load(doc_ptr + b * T + t, mask=t < T, other=-1) >= 0)
        near = tl.minimum(t, T - 1)
        opens = near - k * Q - tl.load(position_ptr + b * T + near).to(tl.int32)
        if tl.program_id(1) == 0:
            tl.store(opens_ptr + b * (tl.num_programs(0) * Q) + t, tl.maximum(opens, -1))
    ok = is_real[:, None] & (h < H)[None, :]
    dt = tl.load(dt_ptr + b * sdb + t.to(tl.int64)[:, None] * sdt + h[None, :], mask=ok, other=0.0)
    dt = dt.to(tl.float32)
    steps = tl.maximum(dt * a[None, :], -104.0) * LOG2_E  # exp of -104 is zero
    cum = tl.cumsum(steps, 0)
    key = cum - tl.where(dt >= LEAST, tl.log2(tl.maximum(dt, LEAST)), float("-inf"))
    if WIDE:
        exact = tl.cumsum(steps.to(tl.float64), 0)
        cum = exact.to(tl.float32)
        key = (exact - cum.to(tl.float64)).to(tl.float32)
    place = (b * H + h[None, :]) * (tl.num_programs(0) * Q) + t[:, None]
    slot = tl.num_programs(2).to(tl.int64) * H * (tl.num_programs(0) * Q)
    tl.store(tokens_ptr + place, dt, mask=(h < H)[None, :])
    tl.store(tokens_ptr + slot + place, cum, mask=(h < H)[None, :])
    tl.store(tokens_ptr + 2 * slot + place, key, mask=(h < H)[None, :])


@triton.jit
def forward(
    x_ptr, tokens_ptr, B_ptr, C_ptr, D_ptr, opens_ptr, first_ptr, y_ptr, last_ptr,
    sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg,
    T, H, R, Tp, per_piece,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, HAS_D: tl.constexpr, HAS_DOC: tl.constexpr,
    WIDE: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr,
    BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y of one piece, head and row; the state after the row's last -> last (B, H, P, N), if asked.

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
    slot = tl.num_programs(2).to(tl.int64) * H * Tp
    cum_ptr = tokens_ptr + slot + (b * H + h) * Tp
    key_ptr = cum_ptr + slot
    opens_ptr += b * Tp
    begin = piece * per_piece * Q
    stop = tl.minimum(begin + per_piece * Q, T)
    for start in tl.range(begin, stop, Q, num_stages=STAGES):
        cum = tl.load(cum_ptr + start + q)
        key = tl.load(key_ptr + start + q)
        end = tl.load(cum_ptr + start + Q - 1)
        xs = _rows(x_ptr, start, q, sxt, p, T, P)
        bs = _rows(B_ptr, start, q, sbt, n, T, N)
        cs = _rows(C_ptr, start, q, sct, n, T, N)
        lives = q[:, None] >= q[None, :]
        enters = tl.exp2(cum)
        leaves = tl.exp2(_left(end, tl.load(key_ptr + start + Q - 1), cum, key, WIDE))
        decay = _left(cum[:, None], key[:, None], cum[None, :], key[None, :], WIDE)
        gain = tl.exp2(end)
        if HAS_DOC:
            opens = tl.load(opens_ptr + start + q)
            last = tl.load(opens_ptr + start + Q - 1)
            lives = lives & (q[None, :] >= opens[:, None])
            enters = tl.where(opens < 0, enters, 0.0)
            leaves = tl.where(q >= last, leaves, 0.0)
            gain = tl.where(last < 0, gain, 0.0)
        decay = tl.exp2(tl.where(lives, decay, float("-inf")))
        if WIDE:
            dt = tl.load(cum_ptr - slot + start + q)
            leaves *= dt
            decay *= dt[None, :]
        weights = decay * _product(cs, tl.trans(bs))
        ys = _product(cs, state.to(kind)) * enters[:, None]
        ys = _add_product(weights.to(kind), xs, ys)
        if HAS_D:
            ys += skip * xs.to(tl.float32)
        _put_rows(y_ptr, start, q, H * P, p, T, ys.to(kind), P)
        state = _add_product(tl.trans(bs), _scaled(xs, leaves), state * gain)
    if HAS_LAST:
        ok = (n < N)[:, None] & (p < P)[None, :] & (piece == tl.num_programs(1) - 1)
        tl.store(last_ptr + ((b * H + h) * P + p[None, :]) * N + n[:, None], state, mask=ok)


@triton.jit
def _near(
    cum_ptr, opens_ptr, begin, stop, back,
    HAS_DOC: tl.constexpr, Q: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """How many of these chunks, from where the walk ends, still leave something there.

    All of them, where more than NEAR do. What is left of the others is below the smallest number of
    fp32, or belongs to another document.
    """
    i = tl.arange(0, NEAR)
    k = tl.where(back, begin + i, stop - 1 - i)
    ok = i < stop - begin
    left = tl.load(cum_ptr + k * Q + Q - 1, mask=ok, other=0.0)
    if HAS_DOC:
        opens = tl.load(opens_ptr + k * Q + Q - 1, mask=ok, other=-1)
        left = tl.where(opens < 0, left, float("-inf"))
    beyond = tl.sum((tl.cumsum(left, 0) > LEAST_LEFT).to(tl.int32), 0)
    return tl.where(beyond < NEAR, tl.minimum(beyond + 1, stop - begin), stop - begin)


@triton.jit
def accumulate(
    x_ptr, dy_ptr, tokens_ptr, B_ptr, C_ptr, opens_ptr, first_ptr, arrives_ptr, each_ptr, last_ptr,
    gain_ptr,
    sxb, sxt, sxh, syb, syt, syh, sbb, sbt, sbg, scb, sct, scg,
    T, H, R, Tp, n_chunks, per_piece, batch, turn,
    HAS_FIRST: tl.constexpr, HAS_EACH: tl.constexpr, HAS_LAST: tl.constexpr, NEAR: tl.constexpr,
    HAS_DOC: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, BP: tl.constexpr,
    N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """S <- gain S + K^T v over the chunks of one piece, forward in time, or back.

    The first `turn` programs of the last axis walk forward, with x as v and B as K: the state, on
    its way to the end. The others walk back, with dy and C: its gradient, on its way to the
    beginning. What enters pieces: first, arrives (B, n_pieces, H, BN, BP). What stood before each
    chunk -> each (2 B, n_chunks, H, BN, BP) in the dtype of v; after all -> last (rows, n_pieces,
    H, BN, BP); product of gains -> gain (rows, n_pieces, H); these only if asked for. Where NEAR is
    given, chunks that leave nothing at the end are passed by; no more than it are looked at.
    """
    h = tl.program_id(0)
    piece = tl.program_id(1)
    z = tl.program_id(2).to(tl.int64)
    back = z >= turn
    b = tl.where(back, z - turn, z)
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    kind = x_ptr.dtype.element_ty
    square = n[:, None] * BP + p[None, :]
    mine = (z * tl.num_programs(1) + piece) * H + h
    state = tl.zeros((BN, BP), tl.float32)
    if HAS_FIRST:
        enters_ptr = tl.where(back, arrives_ptr, first_ptr)
        place = (b * tl.num_programs(1) + piece) * H + h
        state += tl.load(enters_ptr + place * (BN * BP) + square)
    v_ptr = tl.where(back, dy_ptr + b * syb + h * syh, x_ptr + b * sxb + h * sxh)
    K_ptr = tl.where(back, C_ptr + b * scb + h // R * scg, B_ptr + b * sbb + h // R * sbg)
    svt, skt = tl.where(back, syt, sxt), tl.where(back, sct, sbt)
    slot = tl.cast(batch, tl.int64) * H * Tp
    cum_ptr = tokens_ptr + slot + (b * H + h) * Tp
    decay_ptr = cum_ptr + tl.where(back, 0, slot)
    opens_ptr += b * Tp
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, n_chunks)
    total = 1.0
    if NEAR > 0:
        walked = _near(cum_ptr, opens_ptr, begin, stop, back, HAS_DOC, Q, NEAR)
        total = tl.where(walked < stop - begin, 0.0, 1.0)
        begin = tl.where(back, begin, stop - walked)
        stop = begin + walked
    for i in tl.range(begin, stop, num_stages=STAGES):
        k = tl.where(back, begin + stop - 1 - i, i)
        start = k * Q
        decay = tl.load(decay_ptr + start + q)
        end = tl.load(cum_ptr + start + Q - 1)
        vs = _rows(v_ptr, start, q, svt, p, T, P)
        ks = _rows(K_ptr, start, q, skt, n, T, N)
        weight = tl.exp2(tl.where(back, decay, end - decay))
        if WIDE:
            cum = tl.load(cum_ptr + start + q)
            key = tl.load(cum_ptr + slot + start + q)
            end_key = tl.load(cum_ptr + slot + start + Q - 1)
            weight = tl.exp2(_left(end, end_key, cum, key, WIDE))
            weight = tl.where(back, tl.exp2(cum), weight * tl.load(cum_ptr - slot + start + q))
        gain = tl.exp2(end)
        if HAS_DOC:
            opens = tl.load(opens_ptr + start + q)
            last = tl.load(opens_ptr + start + Q - 1)
            weight = tl.where(tl.where(back, opens < 0, q >= last), weight, 0.0)
            gain = tl.where(last < 0, gain, 0.0)
        if HAS_EACH:
            place = ((z * n_chunks + k) * H + h) * (BN * BP)
            tl.store(each_ptr + place + square, state.to(kind))
        state = _add_product(tl.trans(ks), _scaled(vs, weight), state * gain)
        total *= gain
    if HAS_LAST:
        tl.store(last_ptr + mine * (BN * BP) + square, state)
        tl.store(gain_ptr + mine, total)


@triton.jit
def carry(
    last_ptr, gain_ptr, first_ptr, into_ptr, out_ptr, n_pieces, H, size, turn,
    HAS_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What enters each piece, from what each adds (both (rows, n_pieces, H, size)) and keeps.

    first: (rows, H, size), what enters the first of them; after the last -> out, alike. From
    program `turn` of the last axis but one on they go back in time, as in `accumulate`.
    """
    h = tl.program_id(0)
    z = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    ok = cell < size
    state = tl.zeros((BLOCK,), tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + (z * H + h) * size + cell, mask=ok, other=0.0)
    for i in range(n_pieces):
        piece = z * n_pieces + tl.where(z < turn, i, n_pieces - 1 - i)
        place = (piece * H + h) * size + cell
        tl.store(into_ptr + place, state, mask=ok)
        added = tl.load(last_ptr + place, mask=ok, other=0.0)
        state = state * tl.load(gain_ptr + piece * H + h) + added
    tl.store(out_ptr + (z * H + h) * size + cell, state, mask=ok)
