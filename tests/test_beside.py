import pytest
import torch

from braidlm.beside import _tensors, side_by_side
from braidlm.model import HybridLM
from braidlm.parallel import Parallel, overlapped
from tests.specs import spec

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_what_calls_give_comes_in_their_order():
    x = torch.arange(3.0)
    assert [float(y.sum()) for y in side_by_side(x, [lambda n=n: x + n for n in range(4)])] == [
        3.0,
        6.0,
        9.0,
        12.0,
    ]


def test_only_parallel_sublayers_overlap_and_only_inside():
    model = HybridLM(spec("M{M*}-"))
    (found,) = (m for m in model.modules() if isinstance(m, Parallel))
    tokens = torch.randint(31, (2, 9))
    expected = model.loss(tokens, tokens)
    with overlapped(model):
        assert found.overlaps
        assert torch.equal(model.loss(tokens, tokens), expected)
    with overlapped(model, False):
        assert not found.overlaps
    assert not found.overlaps


def test_tensors_are_found_between_other_things():
    x, y, z = torch.zeros(3, 1).unbind()
    nested = (x, None, [1.0, ({"not": "looked into"}, y)], (True, (z,)))
    assert [v.data_ptr() for v in _tensors(nested)] == [v.data_ptr() for v in (x, y, z)]


@needs_gpu
@pytest.mark.parametrize("n", [2, 3])
def test_gradients_pass_through_streams(n):
    x = torch.randn(2, 64, 512, device="cuda", requires_grad=True)
    weights = [torch.randn(512, 512, device="cuda", requires_grad=True) for _ in range(n)]

    def gradients(run) -> list[torch.Tensor]:
        for _ in range(4):  # memory is used again, also that of other streams
            found = run(2 * x, weights)
            loss = torch.stack([v.tanh().square().sum() for v in found]).sum()
            told = torch.autograd.grad(loss, [x, *weights])
        # Without their graph: a weight remembers on which stream a graph that lives has read it.
        return [*(v.detach() for v in found), *told]

    def calls(y, ws):
        return [lambda w=w: (y @ w) @ w for w in ws]

    expected = gradients(lambda y, ws: [call() for call in calls(y, ws)])
    for one, other in zip(
        gradients(lambda y, ws: side_by_side(y, calls(y, ws))), expected, strict=True
    ):
        torch.testing.assert_close(one, other)
