from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from braidlm.ops.norm import gated_rms_norm, l2_norm, rms_norm
from tests.ops.compare import assert_near, assert_same, leaf, relative_l2, with_gradients
from tests.tolerances import BF16_L2, FORMS_FP32


@pytest.mark.parametrize("has_weight", [False, True])
def test_torch_rms_norm_agrees(has_weight):
    x = leaf(3, 4, 8)
    weight = leaf(8) if has_weight else None
    given = [x] if weight is None else [x, weight]
    assert_same(
        lambda: (rms_norm(x, weight, 1e-5),), lambda: (F.rms_norm(x, (8,), weight, 1e-5),), given
    )


def test_groups_are_normalised_by_themselves_and_the_offset_is_added():
    x, weight = leaf(3, 8), leaf(8)

    def judge():
        halves = [F.rms_norm(h, (4,), None, 1e-5) for h in x.split(4, dim=-1)]
        return (torch.cat(halves, -1) * (1.0 + weight),)

    assert_same(lambda: (rms_norm(x, weight, 1e-5, offset=1.0, n_groups=2),), judge, [x, weight])


@pytest.mark.parametrize("norm_before_gate", [False, True])
def test_the_gate_comes_before_or_after(norm_before_gate):
    x, gate, weight = leaf(3, 8), leaf(3, 8), leaf(8)

    def judge():
        opening = gate * torch.sigmoid(gate)
        if norm_before_gate:
            return (F.rms_norm(x, (8,), weight, 1e-5) * opening,)
        return (F.rms_norm(x * opening, (8,), weight, 1e-5),)

    def ours():
        return (gated_rms_norm(x, gate, weight, 1e-5, norm_before_gate=norm_before_gate),)

    assert_same(ours, judge, [x, gate, weight])


def test_the_gate_may_be_a_sigmoid():
    x, gate, weight = leaf(3, 2, 4), leaf(3, 2, 4), leaf(4)

    def judge():
        return (F.rms_norm(x, (4,), weight, 1e-5) * torch.sigmoid(gate),)

    def ours():
        y = gated_rms_norm(x, gate, weight, 1e-5, norm_before_gate=True, activation="sigmoid")
        return (y,)

    assert_same(ours, judge, [x, gate, weight])


def test_unit_length_has_an_eps_beside_the_sum():
    x = leaf(3, 2, 5)

    def judge():
        return (x / torch.sqrt(x.square().sum(-1, keepdim=True) + 0.1),)

    assert_same(lambda: (l2_norm(x, 0.1),), judge, [x])
    with torch.no_grad():
        assert_near(l2_norm(x, 0.1), judge()[0])
    assert_near(l2_norm(x.detach()).norm(dim=-1), torch.ones(3, 2, dtype=torch.float64), FORMS_FP32)
    zero = torch.zeros(4, requires_grad=True)
    l2_norm(zero).sum().backward()
    assert zero.grad is not None
    assert bool(zero.grad.isfinite().all())


def test_gradcheck():
    args = (leaf(2, 4), leaf(2, 4), leaf(4))
    for before in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, g, w, b=before: gated_rms_norm(x, g, w, 1e-5, n_groups=2, norm_before_gate=b),
            args,
        )
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5, offset=1.0), args[::2])


def test_fp32_is_near_fp64():
    exact = [leaf(5, 64), leaf(5, 64), leaf(64)]
    single = [v.detach().float().requires_grad_() for v in exact]
    for before in (False, True):
        ours, truth = (
            with_gradients(
                lambda g=given, b=before: (
                    gated_rms_norm(g[0], g[1], g[2], 1e-5, n_groups=2, norm_before_gate=b),
                    rms_norm(g[0], g[2], 1e-5),
                ),
                given,
            )
            for given in (single, exact)
        )
        for a, b in zip(ours, truth, strict=True):
            assert_near(a.double(), b, FORMS_FP32)


def test_bf16_statistics_are_fp32():
    quantised = [leaf(64, 128, dtype=torch.bfloat16) for _ in range(2)]
    quantised.append(leaf(128, dtype=torch.float32))
    exact = [v.detach().double().requires_grad_() for v in quantised]
    for name, form in (
        ("rms_norm", lambda g: (rms_norm(g[0], g[2], 1e-5),)),
        ("rms_norm", lambda g: (rms_norm(g[0], None, 1e-5, n_groups=2),)),
        ("gated_rms_norm", lambda g: (gated_rms_norm(g[0], g[1], g[2], 1e-5),)),
    ):
        ours = with_gradients(lambda f=form: f(quantised), quantised)
        truth = with_gradients(lambda f=form: f(exact), exact)
        assert ours[0].dtype == torch.bfloat16
        errors = [relative_l2(a, b) for a, b in zip(ours, truth, strict=True)]
        assert max(errors) < BF16_L2[name], (name, errors)


def test_large_bf16_values_do_not_overflow():
    y = rms_norm(torch.full((1, 4), 1e30, dtype=torch.bfloat16), None, 1e-5)
    assert not bool(y.isnan().any())
    y = rms_norm(torch.full((1, 4), 1e15, dtype=torch.bfloat16), None, 1e-5)
    torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: rms_norm(torch.ones(2, 6), torch.ones(5), 1e-5), "weight has shape"),
        (lambda: rms_norm(torch.ones(2, 6), None, 1e-5, n_groups=4), "n_groups=4"),
        (
            lambda: gated_rms_norm(torch.ones(2, 6), torch.ones(6), None, 1e-5),
            "gate has shape",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
