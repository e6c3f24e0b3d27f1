"""The Triton kernels of SSD's backward pass; see `triton_kernels.py` for letters and decays.

They add to `tokens` what each token takes from its chunk (3, gradient of cum), what it gives to it
(4) and to what comes after (5, gradients of dt), what it takes from what entered the chunk (6,
gradient of cum), and with D what goes past the state (7). States lie in `each` (2 B, n_chunks, H,
BN, BP), their gradients in its second half.
"""

from __future__ import annotations

import triton
import triton.language as tl

from braidlm.ops.ssd.triton_kernels import (
    _add_product,
    _left,
    _product,
    _put_rows,
    _rows,
)


@triton.jit
def d_inputs(
    x_ptr, tokens_ptr, B_ptr, C_ptr, D_ptr, opens_ptr, dy_ptr, each_ptr, dx_ptr, d_scores_ptr,
    sdb, sdt, sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg, syb, syt, syh,
    T, H, R, Tp, n_chunks,
    HAS_D: tl.constexpr, HAS_DOC: tl.constexpr, WIDE: tl.constexpr, HB: tl.constexpr,
    Q: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """dx of one chunk and HB heads of a group; the gradient of C B^T, summed over these heads, by
    columns -> d_scores (B, n_chunks, H / HB, Q, Q).

    Matrices of a chunk are turned here: a token that gives is a row, one that takes is a column.
    """
    k = tl.program_id(0)
    h0 = tl.program_id(1) * HB
    b = tl.program_id(2).to(tl.int64)
    g = h0 // R
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    square = n[:, None] * BP + p[None, :]
    start = k * Q
    bs = _rows(B_ptr + b * sbb + g * sbg, start, q, sbt, n, T, N)
    cs = _rows(C_ptr + b * scb + g * scg, start, q, sct, n, T, N)
    kind = bs.dtype
    lives = q[:, None] <= q[None, :]
    last = -1
    if HAS_DOC:
        opens_ptr += b * Tp + start
        lives = lives & (q[:, None] >= tl.load(opens_ptr + q)[None, :])
        last = tl.load(opens_ptr + Q - 1)
    scores = tl.where(lives, _product(bs, tl.trans(cs)), 0.0)
    d_scores = tl.zeros((Q, Q), tl.float32)
    slot = tl.num_programs(2).to(tl.int64) * H * Tp
    ds_ptr = each_ptr + tl.num_programs(2).to(tl.int64) * n_chunks * H * (BN * BP)
    row = (b * H + h0) * Tp + start
    dt_next = tl.load(tokens_ptr + row + q)
    cum_next = tl.load(tokens_ptr + row + q + slot)
    end_next = tl.load(tokens_ptr + slot + row + Q - 1)
    for r in tl.range(0, HB, num_stages=STAGES):
        h = h0 + r
        row = (b * H + h) * Tp + start
        mine_ptr = tokens_ptr + row + q
        if HAS_D:
            dt = tl.load(mine_ptr)
            cum = tl.load(mine_ptr + slot)
            end = tl.load(tokens_ptr + slot + row + Q - 1)
        else:  # one head early, past shared memory: without D only so do two programs fit
            dt, cum, end = dt_next, cum_next, end_next
            far = tl.where(r + 1 < HB, Tp, 0)
            dt_next = tl.load(mine_ptr + far)
            cum_next = tl.load(mine_ptr + slot + far)
            end_next = tl.load(tokens_ptr + slot + row + Q - 1 + far)
        leaves = end - cum
        decay = cum[None, :] - cum[:, None]
        if WIDE:
            key = tl.load(mine_ptr + 2 * slot)
            leaves += tl.load(tokens_ptr + 2 * slot + row + Q - 1) - key
            decay += key[None, :] - key[:, None]
        leaves = tl.where(q >= last, tl.exp2(leaves), 0.0)
        xs = _rows(x_ptr + b * sxb + h * sxh, start, q, sxt, p, T, P)
        ys = _rows(dy_ptr + b * syb + h * syh, start, q, syt, p, T, P)
        ds = tl.load(ds_ptr + ((b * n_chunks + k) * H + h) * (BN * BP) + square)
        decay = tl.exp2(tl.minimum(decay, 0.0))
        dx = _product(bs, ds) * leaves[:, None]
        tl.store(mine_ptr + 5 * slot, tl.sum(dx * xs.to(tl.float32), 1))
        dx = _add_product((decay * scores).to(kind), ys, dx) * dt[:, None]
        if HAS_D:
            wide = ys.to(tl.float32)
            dx += tl.load(D_ptr + h).to(tl.float32) * wide
            tl.store(mine_ptr + 7 * slot, tl.sum(wide * xs.to(tl.float32), 1))
        _put_rows(dx_ptr + b * sdb + h * P, start, q, sdt, p, T, dx.to(kind), P)
        decay *= _product(xs, tl.trans(ys))
        d_scores += decay * dt[:, None]
        decay *= scores
        tl.store(mine_ptr + 4 * slot, tl.sum(decay, 1))
        tl.store(mine_ptr + 3 * slot, tl.sum(decay * dt[:, None], 0))
    place = ((b * n_chunks + k) * tl.num_programs(1) + tl.program_id(1)) * (Q * Q)
    inside = tl.where(lives, d_scores, 0.0)
    tl.store(d_scores_ptr + place + q[:, None] * Q + q[None, :], inside)


@triton.jit
def d_projections(
    x_ptr, tokens_ptr, B_ptr, C_ptr, opens_ptr, dy_ptr, each_ptr, d_scores_ptr, gain_ptr,
    dB_ptr, dC_ptr,
    seb, sen, sfb, sfn, sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg, syb, syt, syh,
    T, H, R, Tp, n_chunks, n_shared,
    HAS_DOC: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dB and dC of one chunk and group, summed over its heads; d_scores comes in n_shared a group.

    Found on the way: the gradient of the whole chunk's log decay -> gain (B, n_chunks, H).
    """
    k = tl.program_id(0)
    g = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    square = n[:, None] * BP + p[None, :]
    start = k * Q
    cs = _rows(C_ptr + b * scb + g * scg, start, q, sct, n, T, N)
    kind = cs.dtype
    goes_on = q >= 0
    last = -1
    if HAS_DOC:
        opens_ptr += b * Tp + start
        goes_on = tl.load(opens_ptr + q) < 0
        last = tl.load(opens_ptr + Q - 1)
    slot = tl.num_programs(2).to(tl.int64) * H * Tp
    ds_ptr = each_ptr + tl.num_programs(2).to(tl.int64) * n_chunks * H * (BN * BP)
    d_b = tl.zeros((Q, BN), tl.float32)
    d_c = tl.zeros((Q, BN), tl.float32)
    for r in tl.range(0, R, num_stages=STAGES):
        h = g * R + r
        row = (b * H + h) * Tp + start
        mine_ptr = tokens_ptr + row + q
        cum = tl.load(mine_ptr + slot)
        key = tl.load(mine_ptr + 2 * slot)
        end = tl.load(tokens_ptr + slot + row + Q - 1)
        xs = _rows(x_ptr + b * sxb + h * sxh, start, q, sxt, p, T, P)
        ys = _rows(dy_ptr + b * syb + h * syh, start, q, syt, p, T, P)
        place = (b * n_chunks + k) * H + h
        state = tl.load(each_ptr + place * (BN * BP) + square)
        ds = tl.load(ds_ptr + place * (BN * BP) + square)
        inner = tl.sum(tl.sum(state.to(tl.float32) * ds.to(tl.float32), 1), 0)
        tl.store(gain_ptr + place, tl.where(last < 0, inner * tl.exp2(end), 0.0))
        enters = tl.where(goes_on, tl.exp2(cum), 0.0)
        end_key = tl.load(tokens_ptr + 2 * slot + row + Q - 1)
        leaves = tl.where(q >= last, tl.exp2(_left(end, end_key, cum, key, WIDE)), 0.0)
        if WIDE:
            leaves *= tl.load(mine_ptr)
        # Rows are scaled after their products, which so take them as they lie in shared memory.
        by_state = _product(ys, tl.trans(state))
        d_b += _product(xs, tl.trans(ds)) * leaves[:, None]
        tl.store(mine_ptr + 6 * slot, tl.sum(by_state * cs.to(tl.float32), 1) * enters)
        d_c += by_state * enters[:, None]
    inside = tl.zeros((Q, Q), tl.float32)
    d_scores_ptr += ((b * n_chunks + k) * tl.num_programs(1) + g) * n_shared * (Q * Q)
    for part in range(n_shared):
        inside += tl.load(d_scores_ptr + part * (Q * Q) + q[:, None] * Q + q[None, :])
    bs = _rows(B_ptr + b * sbb + g * sbg, start, q, sbt, n, T, N)
    d_c = _add_product(tl.trans(inside.to(kind)), bs, d_c)
    d_b = _add_product(inside.to(kind), cs, d_b)
    _put_rows(dB_ptr + b * seb + g * N, start, q, sen, n, T, d_b.to(kind), N)
    _put_rows(dC_ptr + b * sfb + g * N, start, q, sfn, n, T, d_c.to(kind), N)


@triton.jit
def finish(
    tokens_ptr, A_ptr, doc_ptr, out_ptr, shares_ptr, T, H,
    HAS_D: tl.constexpr, HAS_DOC: tl.constexpr, Q: tl.constexpr, HB: tl.constexpr,
):  # fmt: skip
    """d_dt (B, T, H) from the tokens and, in shares (3, B, n_chunks, H), what passes through each
    chunk (0); each chunk's share of dA (1) and dD (2).

    The decay of token i's step acts on all that passes from before i to i or later: what entered
    the chunk and is taken from i on, what tokens before i leave to the end, what passes through the
    whole chunk, and, within the chunk, all that is taken from i on less what is given from i on.
    """
    k = tl.program_id(0)
    h = tl.program_id(1) * HB + tl.arange(0, HB)
    b = tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)
    t = k * Q + q
    mine = (h < H)[None, :]
    a = tl.load(A_ptr + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    Tp = tl.num_programs(0) * Q
    place = (b * H + h[None, :]) * Tp + t[:, None]
    slot = tl.num_programs(2).to(tl.int64) * H * Tp
    mine_ptr = tokens_ptr + place
    share = (b * tl.num_programs(0) + k) * H + h
    n_shares = tl.num_programs(2) * tl.num_programs(0) * H
    dt = tl.load(mine_ptr, mask=mine, other=0.0)
    taken = tl.load(mine_ptr + 3 * slot, mask=mine, other=0.0)
    taken += tl.load(mine_ptr + 6 * slot, mask=mine, other=0.0)
    given = tl.load(mine_ptr + 4 * slot, mask=mine, other=0.0)
    leaves = tl.load(mine_ptr + 5 * slot, mask=mine, other=0.0)
    passes = tl.load(shares_ptr + share, mask=h < H, other=0.0) + tl.sum(leaves * dt, 0)
    d_step = tl.cumsum(taken - (given + leaves) * dt, 0, reverse=True) + passes[None, :]
    d_step = tl.where(dt * a > -104.0, d_step, 0.0)
    d_dt = given + leaves + d_step * a
    if HAS_DOC:
        doc = tl.load(doc_ptr + b * T + t, mask=t < T, other=-1)
        d_dt = tl.where((doc >= 0)[:, None], d_dt, 0.0)
    where = (b * T + t.to(tl.int64)[:, None]) * H + h[None, :]
    tl.store(out_ptr + where, d_dt, mask=(t < T)[:, None] & mine)
    tl.store(shares_ptr + n_shares + share, tl.sum(d_step * dt, 0), mask=h < H)
    if HAS_D:
        past = tl.load(mine_ptr + 7 * slot, mask=mine, other=0.0)
        tl.store(shares_ptr + 2 * n_shares + share, tl.sum(past, 0), mask=h < H)
