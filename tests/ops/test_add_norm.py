"""The residual sum and its norm as one operator; its kernels run under the interpreter on a CPU."""

from __future__ import annotations

import pytest
import torch

from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.ops import add_norm
from braidlm.ops.add_norm import add_rms_norm
from tests.ops.compare import relative_l2, with_gradients
from tests.ops.kernels import DEVICE, HAS_GPU, checked
from tests.specs import spec
from tests.tolerances import TRITON_SMALL

pytestmark = checked
SHAPES = [(3, 7, 48), (1, 5), (130, 6), (2, 3, 4200)]


def kernel(
    h: torch.Tensor, a: torch.Tensor, w: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    from braidlm.ops.triton_add_norm import add_norm_triton

    return add_norm_triton(h, a, w, 1e-5, dtype)


def results(form, dtypes, shape, device, wide: bool) -> list[torch.Tensor]:
    """Of one draw in `dtypes` (hidden, added, y), computed by `form`, in fp64 if `wide`."""
    torch.manual_seed(0)
    kind, added_kind, _ = dtypes
    drawn = [torch.randn(shape).to(kind), torch.randn(shape).to(added_kind), torch.randn(shape[-1])]
    leaves = [v.to(device, torch.float64 if wide else v.dtype).requires_grad_() for v in drawn]
    found = with_gradients(lambda: [v.cpu() for v in form(*leaves)], leaves, torch.bfloat16)
    return [v.cpu() for v in found]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_is_the_formula(shape):
    dtypes = (torch.float32,) * 3
    ours = results(lambda h, a, w: kernel(h, a, w + 1.0, h.dtype), dtypes, shape, DEVICE, False)
    truth = results(
        lambda h, a, w: add_rms_norm(h, a, w, 1e-5, offset=1.0, impl="torch"),
        *(dtypes, shape, "cpu", True),
    )
    assert max(relative_l2(a, b) for a, b in zip(ours, truth, strict=True)) < TRITON_SMALL


@pytest.mark.skipif(not HAS_GPU, reason="the interpreter rounds bf16 otherwise")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_is_rounded_twice(shape):
    """With a stream in fp32, a sublayer in bf16 and a reader in bf16: as sum, norm and cast."""
    dtypes = (torch.float32, torch.bfloat16, torch.bfloat16)
    found = {
        name: results(
            lambda h, a, w, name=name: add_rms_norm(h, a, w, 1e-5, dtype=torch.bfloat16, impl=name),
            *(dtypes, shape, DEVICE, False),
        )
        for name in ("triton", "torch")
    }
    truth = results(
        lambda h, a, w: add_rms_norm(h, a, w, 1e-5, impl="torch"), dtypes, shape, "cpu", True
    )
    assert [v.dtype for v in found["triton"]] == [v.dtype for v in found["torch"]]
    assert torch.equal(found["triton"][0], found["torch"][0])
    for ours, theirs, exact in zip(*found.values(), truth, strict=True):
        assert relative_l2(ours, exact) <= 1.05 * relative_l2(theirs, exact) + 1e-6


def test_either_result_may_go_unused():
    drawn = (torch.randn(6, 8), torch.randn(6, 8), torch.randn(8))
    for i in (0, 1):
        ours = [v.to(DEVICE).requires_grad_() for v in drawn]
        theirs = [v.double().requires_grad_() for v in drawn]
        h, a, w = ours
        mine = kernel(h, a, w, torch.float32)[i].square().sum()
        h, a, w = theirs
        truth = add_rms_norm(h, a, w, 1e-5, impl="torch")[i].square().sum()
        n = 2 + i  # the sum does not depend on the scale
        pairs = zip(
            torch.autograd.grad(mine, ours[:n]), torch.autograd.grad(truth, theirs[:n]), strict=True
        )
        assert max(relative_l2(a.cpu(), b) for a, b in pairs) < TRITON_SMALL


def test_many_blocks_share_their_rows(monkeypatch):
    from braidlm.ops import triton_add_norm

    monkeypatch.setattr(triton_add_norm, "PROGRAMS", 2)
    monkeypatch.setattr(triton_add_norm, "BLOCK", 16)
    test_the_kernel_is_the_formula((77, 5))


def test_bad_calls_are_refused():
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match=r"added has shape \(2, 3\); it must be \(2, 4\)"):
        add_rms_norm(x, x[:, :3], torch.ones(4), 1e-5)
    with pytest.raises(InputError, match="it needs an NVIDIA GPU"):
        add_rms_norm(x, x, torch.ones(4), 1e-5, impl="triton")


PATTERNS = ["M-*-", "M{M*}-E-", "{M*}{M-}*"]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_model_whose_sublayers_owe_their_sums_is_the_same(pattern, autocast, monkeypatch):
    """Sums that wait for the next norm, those before a parallel sublayer and a router too."""
    torch.manual_seed(0)
    model = HybridLM(spec(pattern))
    tokens = torch.randint(model.spec.vocab_size, (2, 19))

    def run(autocast: bool = autocast) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model.loss(tokens, tokens.roll(-1, 1))
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    truth, plain, seen = run(False), run(), []
    monkeypatch.setattr("braidlm.model.pays", lambda hidden: True)
    inner = add_norm._torch
    operator = add_norm.ADD_NORM
    forms = tuple(
        one._replace(function=lambda *x: (seen.append(x[-1]), inner(*x))[1])
        for one in operator.implementations
    )
    monkeypatch.setattr(add_norm, "ADD_NORM", type(operator)(operator.name, forms))
    owed = run()
    assert len(seen) >= 2  # the next norm did make the sums
    assert (torch.bfloat16 in seen) is autocast
    for a, b, exact in zip(owed, plain, truth, strict=True):
        if autocast and "{" in pattern:  # branches read, and add up their gradients, in bf16
            found, allowed = ((v - exact).detach().norm() for v in (a, b))
            assert float(found) <= 1.2 * float(allowed) + 1e-4
        else:
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)
    monkeypatch.undo()
