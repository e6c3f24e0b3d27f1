"""Bias and softplus of the steps before the selective scan, and the gate behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from braidlm.ops.selective_scan import selective_scan
from braidlm.segments import Segments
from tests.ops.compare import (
    Results,
    assert_near,
    assert_same,
    layouts,
    leaf,
    only_real,
    relative_l2,
    with_gradients,
)
from tests.tolerances import BF16_L2

WIDTH, N = 6, 5
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
PER_TOKEN = ("x", "dt", "B", "C", "z")


def inputs(batch: int, length: int, dtype=torch.float64) -> dict[str, Tensor]:
    """All tensors by name; steps before their bias are of either sign, and of some size."""
    x, z = torch.randn(2, batch, length, WIDTH, dtype=dtype)
    dt = 3 * torch.randn(batch, length, WIDTH, dtype=dtype)
    a = -torch.rand(WIDTH, N, dtype=dtype) * 8
    b, c = torch.randn(2, batch, length, N, dtype=dtype)
    d, bias = torch.randn(2, WIDTH, dtype=dtype)
    values = (x, dt, a, b, c, d, 2 * z, bias - 1)
    return {k: v.clone().requires_grad_() for k, v in zip(NAMES, values, strict=True)}


def called(
    args: Mapping[str, Any], impl: str, segments=None, state=None, chunk=16, softplus=True
) -> tuple[Tensor, Tensor]:
    options = {"dt_softplus": softplus, "chunk_size": chunk, "impl": impl}
    y, final = selective_scan(**args, **options, segments=segments, initial_state=state)
    assert final is not None
    return only_real(y, segments), final


@pytest.mark.parametrize(
    ("length", "chunk", "has_state", "layout"),
    [
        (1, 8, True, "rows"),
        (33, 16, False, "rows"),
        (65, 7, True, "packed"),
        (40, 9, True, "padded"),
    ],
)
def test_chunk_is_naive(length, chunk, has_state, layout):
    segments, args = layouts(length, 16)[layout], inputs(2, length)
    state = leaf(2 if segments is None else segments.n_docs, WIDTH, N) if has_state else None
    leaves = [*args.values(), *([] if state is None else [state])]
    ours, truth = (
        lambda impl=impl: called(args, impl, segments, state, chunk) for impl in ("chunk", "naive")
    )
    assert_same(ours, truth, leaves)


def test_step_is_naive():
    args, state = inputs(3, 1), leaf(3, WIDTH, N)
    ours, truth = (lambda impl=impl: called(args, impl, None, state) for impl in ("step", "naive"))
    assert_same(ours, truth, [*args.values(), state])


@pytest.mark.parametrize("impl", ["chunk", "naive", "step"])
@pytest.mark.parametrize("missing", [(), ("dt_bias",), ("z",), ("D", "z")])
@pytest.mark.parametrize("softplus", [True, False])
def test_it_is_the_plain_scan_with_its_formulas_written_around_it(impl, missing, softplus):
    args = inputs(2, 1 if impl == "step" else 9)
    if not softplus:
        args = args | {k: args[k].detach().abs().requires_grad_() for k in ("dt", "dt_bias")}
    given = {k: v for k, v in args.items() if k not in missing}

    def by_hand() -> Results:
        raw = args["dt"] + (0 if "dt_bias" in missing else args["dt_bias"])
        dt = torch.log1p(torch.exp(raw)) if softplus else raw
        skip = None if "D" in missing else args["D"]
        rest = args["A"], args["B"], args["C"], skip
        y, final = selective_scan(args["x"], dt, *rest, impl="naive")
        return (y if "z" in missing else y * args["z"] / (1 + torch.exp(-args["z"]))), final

    assert_same(lambda: called(given, impl, softplus=softplus), by_hand, list(given.values()))


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_gradcheck(impl):
    args, state = inputs(1, 5), leaf(3, WIDTH, N)
    segments = Segments.from_doc_ids(torch.tensor([[0, 1, 1, -1, 2]]))

    def form(*tensors):
        named: dict[str, Tensor] = dict(zip(NAMES, tensors[:-1], strict=True))
        return called(named, impl, segments, tensors[-1], 2)

    assert torch.autograd.gradcheck(form, (*args.values(), state), fast_mode=True)


@pytest.mark.parametrize("impl", ["chunk", "naive"])
def test_prefill_and_steps_are_the_full_call_at_every_split(impl):
    args = {k: v.detach() for k, v in inputs(2, 9).items()}

    def part(columns: slice) -> dict[str, Tensor]:
        return {k: v[:, columns] if k in PER_TOKEN else v for k, v in args.items()}

    full, last = called(args, impl, chunk=4)
    for split in range(1, 9):
        y, state = called(part(slice(split)), impl, chunk=4)
        pieces = [y]
        for t in range(split, 9):
            y, state = called(part(slice(t, t + 1)), "step", None, state)
            pieces.append(y)
        assert_near(torch.cat(pieces, 1), full)
        assert_near(state, last)


def test_padding_reaches_no_document_whatever_it_holds():
    segments = layouts(65, 16)["padded"]
    assert segments is not None
    args = {k: v.detach() for k, v in inputs(2, 65, torch.float32).items()}
    y, state = called(args, "chunk", segments)
    noisy = {k: v.clone() for k, v in args.items()}
    for name in PER_TOKEN:
        noisy[name][~segments.is_real] = 1e4
    y2, state2 = called(noisy, "chunk", segments)
    assert torch.equal(y, y2)
    assert torch.equal(state, state2)


def test_bf16_stays_near_fp64():
    args = inputs(2, 200, torch.float32)
    narrow = {k: v.detach().bfloat16().requires_grad_() for k, v in args.items() if k in PER_TOKEN}
    args |= narrow
    exact = {k: v.detach().double().requires_grad_() for k, v in args.items()}
    ours = with_gradients(lambda: called(args, "chunk"), list(args.values()))
    truth = with_gradients(lambda: called(exact, "chunk"), list(exact.values()))
    assert (ours[0].dtype, ours[1].dtype) == (torch.bfloat16, torch.float32)
    errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
    assert max(errors) < BF16_L2["selective_scan"], errors


def test_autocast_changes_nothing_inside():
    args = {k: v.detach() for k, v in inputs(2, 20, torch.float32).items()}
    plain, _ = called(args, "chunk")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, state = called(args, "chunk")
    assert torch.equal(plain, cast)
    assert state.dtype == torch.float32
