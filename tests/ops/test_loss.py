from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from braidlm.errors import InputError
from braidlm.ops.loss import linear_cross_entropy
from tests.ops.compare import assert_same, leaf, relative_l2, with_gradients
from tests.tolerances import BF16_L2

V, WIDTH = 11, 5


def inputs(dtype=torch.float64):
    targets = torch.randint(0, V, (3, 7))
    targets[0, 3] = targets[2, 6] = -100
    return leaf(3, 7, WIDTH, dtype=dtype), leaf(V, WIDTH, dtype=dtype), targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_torch_cross_entropy_agrees(reduction, chunk_size, scale):
    hidden, weight, targets = inputs()

    def judge():
        logits = scale * (hidden @ weight.t())
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        return (loss.view(targets.shape) if reduction == "none" else loss,)

    def ours():
        loss = linear_cross_entropy(
            hidden, weight, targets, reduction=reduction, chunk_size=chunk_size, logit_scale=scale
        )
        return (3 * loss / 3,)

    assert_same(ours, judge, [hidden, weight])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(reduction):
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, reduction=reduction, chunk_size=4),
        (hidden, weight),
    )


def test_only_what_needs_gradients_gets_them():
    hidden, weight, targets = inputs()
    for reduction in ("sum", "none"):
        linear_cross_entropy(hidden.detach(), weight, targets, reduction=reduction).sum().backward()
        assert hidden.grad is None
    with torch.no_grad():
        free = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(free, linear_cross_entropy(hidden, weight, targets).detach())


def test_nothing_counted_is_zero_and_not_nan():
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None
    assert not bool(hidden.grad.any())


def test_full_logits_are_never_held():
    hidden, weight = torch.randn(4096, 4), torch.randn(500, 4)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    weight.requires_grad_()
    with Watch():
        linear_cross_entropy(hidden, weight, torch.zeros(4096).long(), chunk_size=64).backward()
    assert largest == 64 * 500


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4, -1e4]]).requires_grad_()
    weight = torch.eye(2).requires_grad_()
    for target, expected in ((0, 0.0), (1, 2e4)):
        loss = linear_cross_entropy(hidden, weight, torch.tensor([target]))
        assert float(loss.detach()) == expected
        loss.backward()
    assert bool(hidden.grad.isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_bf16_and_autocast_stay_near_fp64(reduction):
    hidden, weight = leaf(400, 64, dtype=torch.bfloat16), leaf(300, 64, dtype=torch.bfloat16)
    targets = torch.randint(0, 300, (400,))

    def form(h, w):
        return (linear_cross_entropy(h, w, targets, reduction=reduction, logit_scale=0.1),)

    exact = [v.detach().double().requires_grad_() for v in (hidden, weight)]
    truth = with_gradients(lambda: form(*exact), exact)
    ours = with_gradients(lambda: form(hidden, weight), [hidden, weight])
    single = [v.detach().float().requires_grad_() for v in (hidden, weight)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = with_gradients(lambda: form(*single), single)
    assert ours[0].dtype == cast[0].dtype == cast[2].dtype == torch.float32
    for found in (ours, cast):
        errors = [relative_l2(a, b) for a, b in zip(found, truth, strict=True)]
        assert max(errors) < BF16_L2["loss"], errors


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"targets": torch.full((3, 7), V)}, "11"),
        ({"targets": torch.full((3, 7), -1)}, "-1"),
        ({"targets": torch.zeros(3, 7)}, "float32"),
        ({"targets": torch.zeros(3, 6).long()}, r"\(3, 6\)"),
        ({"weight": torch.zeros(V, 4)}, r"\(11, 4\)"),
        ({"reduction": "max"}, "max"),
        ({"chunk_size": 0}, "chunk_size=0"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    call = dict(zip(("hidden", "weight", "targets"), inputs(), strict=True)) | change
    with pytest.raises(ValueError, match=word):
        linear_cross_entropy(**call)


def test_a_bad_target_is_the_users_error():
    hidden, weight, targets = inputs()
    with pytest.raises(InputError, match=r"must be in 0\.\.10"):
        linear_cross_entropy(hidden, weight, targets + V)
