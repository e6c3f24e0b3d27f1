"""KL of two heads against its definition, in blocks of any size."""

import pytest
import torch

from braidlm.ops.divergence import linear_divergence


def inputs(dtype: torch.dtype = torch.float64):
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, 4, generator=rng, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 4, generator=rng, dtype=dtype, requires_grad=True)
    theirs = torch.randn(2, 5, 3, generator=rng, dtype=dtype)
    their_weight = torch.randn(11, 3, generator=rng, dtype=dtype)
    counts = torch.rand(2, 5, generator=rng) < 0.7
    return hidden, weight, theirs, their_weight, counts


def definition(hidden, weight, theirs, their_weight, counts):
    p = (theirs @ their_weight.t()).log_softmax(-1)
    q = (hidden @ weight.t()).log_softmax(-1)
    return ((p.exp() * (p - q)).sum(-1) * counts).sum()


@pytest.mark.parametrize("chunk_size", [1, 3, 100, None])
def test_value_and_gradients_are_those_of_the_definition(chunk_size):
    given = inputs()
    want = definition(*given)
    gradients = torch.autograd.grad(want, given[:2])
    found = linear_divergence(*given, chunk_size=chunk_size)
    torch.testing.assert_close(found, want)
    for one, other in zip(torch.autograd.grad(found * 2, given[:2]), gradients, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_gradcheck():
    hidden, weight, *rest = inputs()
    assert torch.autograd.gradcheck(lambda h, w: linear_divergence(h, w, *rest), (hidden, weight))


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, *rest = inputs()
    linear_divergence(hidden, weight.detach(), *rest).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_bf16_is_close_and_equal_heads_are_at_zero():
    hidden, weight, theirs, their_weight, counts = inputs(torch.float32)
    want = definition(hidden, weight, theirs, their_weight, counts).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_divergence(hidden, weight, theirs, their_weight, counts)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(want, rel=0.05)
    assert linear_divergence(hidden, weight, hidden, weight, counts).item() == pytest.approx(0)


def test_no_token_is_no_loss():
    hidden, weight, theirs, their_weight, counts = inputs()
    found = linear_divergence(hidden, weight, theirs, their_weight, torch.zeros_like(counts))
    found.backward()
    assert found.item() == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_shapes_that_do_not_fit_are_named():
    hidden, weight, theirs, their_weight, counts = inputs()
    with pytest.raises(ValueError, match=r"weights \(11, 4\) and \(10, 3\)"):
        linear_divergence(hidden, weight, theirs, their_weight[:10], counts)
