"""Every form of the experts against the dense truth, and that against one token at a time."""

import pytest
import torch
import torch.nn.functional as F

from braidlm.errors import InputError
from braidlm.ops import dispatch
from braidlm.ops.experts import experts
from braidlm.ops.experts.batched import experts_batched
from braidlm.ops.experts.gathered import experts_gathered
from braidlm.ops.experts.grouped import experts_grouped_mm
from tests.ops.compare import assert_same, leaf, relative_l2
from tests.tolerances import Tolerance

FUNCTIONS = {"silu": F.silu, "gelu": F.gelu, "relu2": lambda h: F.relu(h) ** 2}
needs_grouped_mm = pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch below 2.10")


def inputs(n, k, n_experts, width=6, inner=5, gated=True, dtype=torch.float64, only=None):
    """Random experts; `only` restricts the choice, so that some have no token."""
    torch.manual_seed(n)
    x = leaf(n, width, dtype=dtype)
    weight = leaf(n, k, dtype=dtype)
    index = torch.rand(n, only or n_experts).topk(k).indices
    w_in = leaf(n_experts, inner * (1 + gated), width, dtype=dtype)
    return x, index, weight, w_in, leaf(n_experts, width, inner, dtype=dtype)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_dense_is_the_formula_token_by_token(activation, gated):
    x, index, weight, w_in, w_out = inputs(7, 3, 4, gated=gated)
    rows = []
    for t in range(7):
        total = torch.zeros(6, dtype=torch.float64)
        for j in range(3):
            h = w_in[index[t, j]] @ x[t]
            act = FUNCTIONS[activation]
            h = act(h[:5]) * h[5:] if gated else act(h)
            total = total + weight[t, j] * (w_out[index[t, j]] @ h)
        rows.append(total)
    found = experts(x, index, weight, w_in, w_out, activation=activation, gated=gated, impl="dense")
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "k", "n_experts", "only"),
    [(1, 1, 1, None), (1, 2, 8, None), (63, 2, 4, None), (65, 3, 16, 3), (200, 4, 4, None)],
)
@pytest.mark.parametrize("gated", [True, False])
def test_sorted_is_dense(n, k, n_experts, only, gated):
    args = inputs(n, k, n_experts, gated=gated, only=only)
    x, _, weight, w_in, w_out = args

    def form(impl):
        return lambda: [experts(*args, gated=gated, activation="gelu", impl=impl)]

    assert_same(form("sorted"), form("dense"), [x, weight, w_in, w_out])


@pytest.mark.parametrize(("n", "k", "n_experts"), [(1, 2, 8), (3, 2, 6), (1, 4, 4)])
@pytest.mark.parametrize("gated", [True, False])
def test_gathered_is_dense(n, k, n_experts, gated):
    args = inputs(n, k, n_experts, gated=gated)
    x, _, weight, w_in, w_out = args

    def gathered():
        return [experts_gathered(*args, F.silu, gated)]

    def dense():
        return [experts(*args, gated=gated, impl="dense")]

    assert_same(gathered, dense, [x, weight, w_in, w_out])


@pytest.mark.parametrize(
    ("n", "k", "n_experts", "only"), [(1, 1, 1, None), (1, 2, 8, None), (9, 2, 4, 3), (65, 3, 6, 5)]
)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_batched_is_dense(n, k, n_experts, only, gated, activation):
    args = inputs(n, k, n_experts, gated=gated, only=only)
    x, _, weight, w_in, w_out = args

    def batched():
        return [experts_batched(*args, FUNCTIONS[activation], gated)]

    def dense():
        return [experts(*args, gated=gated, activation=activation, impl="dense")]

    assert_same(batched, dense, [x, weight, w_in, w_out])


def test_compiled_code_runs_what_asks_the_host_nothing():
    for n in (2, 9):  # as many choices as experts, and more
        args = [t.detach() for t in inputs(n, 2, 4)]
        fast = torch.compile(experts, fullgraph=True, backend="eager")
        expected = experts(*args, impl="dense")
        torch.testing.assert_close(fast(*args), expected, rtol=1e-12, atol=1e-12)


@needs_grouped_mm
@pytest.mark.parametrize(("n", "only"), [(1, None), (65, 3), (200, None)])
def test_grouped_mm_is_dense_in_fp32(n, only):
    """Measured: 2e-6 of outputs and gradients."""
    args = inputs(n, 2, 6, width=16, inner=12, dtype=torch.float32, only=only)
    x, _, weight, w_in, w_out = args

    def grouped():
        return [experts_grouped_mm(*args, F.silu, True)]

    wanted = [x, weight, w_in, w_out]
    assert_same(grouped, lambda: [experts(*args, impl="dense")], wanted, Tolerance(1e-4, 2e-4))


def test_gradients_are_those_of_differences():
    x, index, weight, w_in, w_out = inputs(4, 2, 3, width=3, inner=2)

    def run(x, weight, w_in, w_out):
        return experts(x, index, weight, w_in, w_out)

    assert torch.autograd.gradcheck(run, (x, weight, w_in, w_out))


def test_an_idle_expert_has_a_gradient_of_zero_and_its_neighbours_are_right():
    x, index, weight, w_in, w_out = inputs(9, 2, 5, only=3)
    experts(x, index, weight, w_in, w_out).sum().backward()
    assert w_in.grad is not None
    used = [bool(g.abs().max() > 0) for g in w_in.grad]
    assert used == [True, True, True, False, False]


def test_bf16_is_as_near_to_the_truth_as_dense_bf16():
    args = [t.detach() for t in inputs(100, 2, 4, width=16, inner=24, dtype=torch.float32)]
    coarse = [t.bfloat16() if i in (0, 3, 4) else t for i, t in enumerate(args)]
    truth = experts(*(t.double() if t.is_floating_point() else t for t in coarse), impl="dense")
    own = relative_l2(experts(*coarse, impl="sorted"), truth)
    assert own <= 1.5 * relative_l2(experts(*coarse, impl="dense"), truth)
    assert own < 0.01


def test_autocast_decides_the_dtype_of_the_products_and_not_of_the_sum():
    args = inputs(40, 3, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = experts(*args)
    assert found.dtype == torch.bfloat16
    assert 0 < relative_l2(found, experts(*args).double()) < 0.02


def test_sorted_has_the_same_bits_whenever_it_runs():
    x, index, weight, w_in, w_out = inputs(200, 4, 8, dtype=torch.float32)

    def once():
        y = experts(x, index, weight, w_in, w_out)
        return [y, *torch.autograd.grad(y.square().sum(), (x, weight, w_in, w_out))]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_in_the_dense_form_a_token_depends_on_no_other_to_the_bit():
    x, index, weight, w_in, w_out = inputs(37, 2, 4, dtype=torch.float32)
    whole = experts(x, index, weight, w_in, w_out, impl="dense")
    other = torch.randperm(37)
    index = torch.cat([index[:20], index[other][20:]])
    moved = torch.cat([x[:20], x[other][20:]])
    assert torch.equal(experts(moved, index, weight, w_in, w_out, impl="dense")[:20], whole[:20])


def test_the_choice_is_recorded_and_refused_with_a_reason():
    args = inputs(3, 2, 4)
    dispatch.reset()
    experts(*args)
    assert dispatch.used() == {"experts": "sorted"}
    for impl, reason in (
        ("grouped_mm", "it is for bf16 on a GPU"),
        ("gathered", "it would copy 6 experts' weights, and there are only 4"),
        ("batched", "on a CPU it would multiply by experts that nobody chose"),
    ):
        with pytest.raises(InputError, match=reason):
            experts(*args, impl=impl)
    with pytest.raises(InputError, match="must be one of auto, gathered, batched"):
        experts(*args, impl="fast")


def test_shapes_that_do_not_fit_are_named():
    x, index, weight, w_in, w_out = inputs(3, 2, 4)
    with pytest.raises(ValueError, match=r"w_in has shape \(4, 9, 6\); it must be \(4, 10, 6\)"):
        experts(x, index, weight, w_in[:, :9], w_out)
    with pytest.raises(ValueError, match=r"weight has shape \(3, 1\); it must be \(3, 2\)"):
        experts(x, index, weight[:, :1], w_in, w_out)
    with pytest.raises(ValueError, match="activation='tanh' must be one of silu, gelu, relu2"):
        experts(x, index, weight, w_in, w_out, activation="tanh")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnAGpu:
    """Forms in bf16 against the dense truth in fp64, every gradient."""

    @staticmethod
    def results(args, impl):
        index, graded = args[1], [args[0], *args[2:]]
        leaves = [t.detach().requires_grad_() for t in graded]
        y = experts(leaves[0], index, *leaves[1:], impl=impl)
        probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
        return [y, *torch.autograd.grad((y * probe).sum(), leaves)]

    @pytest.mark.parametrize(
        ("impl", "n", "only"),
        [
            ("grouped_mm", 8, None),
            ("grouped_mm", 300, 5),
            ("grouped_mm", 1000, None),
            ("sorted", 300, 5),
            ("sorted", 1000, None),
            ("batched", 8, None),
            ("batched", 64, 5),
        ],
    )
    def test_bf16_is_as_near_to_the_truth_as_dense_bf16(self, impl, n, only):
        args = inputs(n, 4, 16, width=64, inner=48, dtype=torch.float32, only=only)
        args = [t.detach().cuda() for t in args]
        coarse = [t.bfloat16() if i in (0, 3, 4) else t for i, t in enumerate(args)]
        truth = self.results([t.double() if t.is_floating_point() else t for t in coarse], "dense")
        ours, dense = self.results(coarse, impl), self.results(coarse, "dense")
        for found, other, exact in zip(ours, dense, truth, strict=True):
            assert relative_l2(found, exact) <= 1.5 * relative_l2(other, exact)

    def test_a_step_gathers_and_many_tokens_are_grouped(self):
        for n, form in ((1, "gathered"), (64, "batched"), (65, "grouped_mm")):
            args = [t.detach().cuda() for t in inputs(n, 4, 16, width=64, inner=48)]
            dispatch.reset()
            y = experts(
                *(
                    t.bfloat16() if i in (0, 3, 4) else t.float() if i == 2 else t
                    for i, t in enumerate(args)
                )
            )
            assert dispatch.used() == {"experts": form}
            assert relative_l2(y, experts(*args, impl="dense")) < 0.02

    @pytest.mark.filterwarnings("ignore:Synchronization debug mode")
    @pytest.mark.parametrize("n", [1, 2, 8, 64, 512])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_a_step_asks_the_host_nothing(self, dtype, n):
        args = [t.detach().cuda() for t in inputs(n, 4, 16, width=64, inner=48)]
        if dtype != torch.float64:
            args = [t.to(dtype) if i in (0, 3, 4) else t for i, t in enumerate(args)]
            args[2] = args[2].float()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            y = experts(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        wide = [t.double() if t.is_floating_point() else t for t in args]
        bound = {torch.bfloat16: 2e-2, torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
        assert relative_l2(y, experts(*wide, impl="dense")) < bound

    def test_many_tokens_are_sorted(self):
        args = [t.detach().cuda() for t in inputs(513, 4, 16)]
        dispatch.reset()
        experts(*args)
        assert dispatch.used() == {"experts": "sorted"}
        with pytest.raises(InputError, match="every expert over every token, of which it allows"):
            experts(*args, impl="batched")

    def test_gradients_have_the_same_bits_whenever_they_are_computed(self):
        args = inputs(1000, 4, 16, width=64, inner=48, dtype=torch.float32)
        args = [t.detach().cuda() for t in args]
        coarse = [t.bfloat16() if i in (0, 3, 4) else t for i, t in enumerate(args)]
        one, other = (self.results(coarse, "grouped_mm") for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert dispatch.used()["experts"]
