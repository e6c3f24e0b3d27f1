"""Triton kernels of convolution, norms and loss: on a GPU, elsewhere under the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from braidlm.ops import conv, dispatch, norm, rope
from braidlm.ops.conv import causal_conv
from braidlm.ops.loss import linear_cross_entropy
from braidlm.ops.norm import gated_rms_norm, rms_norm
from braidlm.ops.rope import rope_angles, rope_frequencies
from braidlm.ops.swiglu import swiglu
from braidlm.segments import Segments
from tests.ops.compare import layouts, only_real, relative_l2, with_gradients
from tests.ops.kernels import DEVICE, HAS_GPU, checked, needs_gpu
from tests.tolerances import BF16_L2, TRITON_SMALL

pytestmark = checked
DTYPES = [torch.float32, torch.bfloat16] if HAS_GPU else [torch.float32]


@pytest.fixture(scope="module", autouse=True)
def _triton():
    """tests/conftest.py has chosen the interpreter where it is needed."""
    pytest.importorskip("triton")


def errors(function, judge, tensors: list[Tensor]) -> list[float]:
    """Relative errors of the result and of every gradient against `judge` in fp64."""

    def run(form, dtype, device):
        moved = [v.detach().to(device, dtype or v.dtype).requires_grad_() for v in tensors]
        return with_gradients(lambda: [form(*moved).cpu()], moved)

    ours, truth = run(function, None, DEVICE), run(judge, torch.float64, "cpu")
    assert all(bool(v.isfinite().all()) for v in ours)
    return [relative_l2(a.cpu(), b) for a, b in zip(ours, truth, strict=True)]


def check(function, form, judge, tensors: list[Tensor]) -> None:
    """Near the truth in fp32; in bf16 at most 1.5 times as far from it as `form`, each result."""
    found = errors(function, judge, tensors)
    if tensors[0].dtype == torch.float32:
        assert max(found) < TRITON_SMALL
    else:
        theirs = errors(form, judge, tensors)
        assert all(a <= 1.5 * b + 1e-4 for a, b in zip(found, theirs, strict=True)), (found, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize(
    ("shape", "n_groups"), [((3, 7, 48), 1), ((1, 5), 1), ((130, 6), 2), ((2, 3, 4200), 1)], ids=str
)
def test_the_norm_is_the_formula(shape, n_groups, has_weight, dtype):
    from braidlm.ops.triton_norm import norm_triton

    tensors = [torch.randn(shape).to(dtype), torch.randn(shape[-1])][: 1 + has_weight]
    check(
        lambda x, w=None: norm_triton(x, None, w, 1e-5, n_groups),
        lambda x, w=None: norm._torch(x, None, w, 1e-5, n_groups, False, True),
        lambda x, w=None: rms_norm(x, w, 1e-5, n_groups=n_groups),
        tensors,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_the_gate_is_inside(n_groups, norm_first, activation, dtype):
    from braidlm.ops.triton_norm import norm_triton

    x, gate = torch.randn(2, 2, 70, 36).to(dtype).unbind(0)
    gate = gate.mT.contiguous().mT  # a gate is a slice of a wider projection, or laid otherwise
    names = {"n_groups": n_groups, "norm_before_gate": norm_first, "activation": activation}
    check(
        lambda x, z, w: norm_triton(x, z, w, 1e-5, n_groups, norm_first, activation == "silu"),
        lambda x, z, w: norm._torch(x, z, w, 1e-5, n_groups, norm_first, activation == "silu"),
        lambda x, z, w: gated_rms_norm(x, z, w, 1e-5, **names),
        [x, gate, torch.randn(36)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("width", [5, 64])  # 64: loads of 16 bytes, and those in advance
def test_a_norm_adds_up_its_scale_over_many_blocks(width, norm_first, dtype, monkeypatch):
    from braidlm.ops import triton_norm

    monkeypatch.setattr(triton_norm, "PROGRAMS", 2)
    monkeypatch.setattr(triton_norm, "BLOCK", 4 * width)
    check(
        lambda x, z, w: triton_norm.norm_triton(x, z, w, 1e-5, 1, norm_first),
        lambda x, z, w: norm._torch(x, z, w, 1e-5, 1, norm_first, True),
        lambda x, z, w: gated_rms_norm(x, z, w, 1e-5, norm_before_gate=norm_first),
        [*torch.randn(2, 77, width).to(dtype), torch.randn(width)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", [5, 4096, 5000])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_loss_is_minus_the_log_of_a_softmax(vocab_size, scale, dtype):
    from braidlm.ops.triton_loss import cross_entropy_triton

    logits = (4 * torch.randn(9, vocab_size)).to(dtype).to(DEVICE)
    targets = torch.randint(vocab_size, (9,), device=DEVICE)
    targets[2] = -100
    targets[3] = vocab_size - 1
    weights = torch.randn(9, device=DEVICE)
    wide = logits.double().requires_grad_()
    options = {"ignore_index": -100, "reduction": "none"}
    truth = torch.nn.functional.cross_entropy(wide * scale, targets, **options)
    (d_truth,) = torch.autograd.grad((truth * weights.double()).sum(), wide)
    kept = logits.clone()
    alone = cross_entropy_triton(logits, targets, None, -100, scale)
    assert torch.equal(logits, kept)  # without weights nothing is written
    losses = cross_entropy_triton(logits, targets, weights, -100, scale)
    assert torch.equal(alone, losses)
    assert losses[2] == 0
    assert not logits[2].any()
    assert relative_l2(losses, truth.detach()) < TRITON_SMALL
    assert relative_l2(logits, d_truth) < (
        TRITON_SMALL if dtype == torch.float32 else BF16_L2["loss"]
    )


def test_logits_far_from_zero():
    from braidlm.ops.triton_loss import cross_entropy_triton

    logits = torch.tensor([[1e4, -1e4, 0.0], [-3e38, -3e38, -3e38]], device=DEVICE)
    targets = torch.tensor([1, 0], device=DEVICE)
    losses = cross_entropy_triton(logits, targets, torch.ones(2, device=DEVICE), -100, 1.0)
    torch.testing.assert_close(losses.cpu(), torch.tensor([2e4, torch.tensor(3.0).log()]))
    expected = torch.tensor([[1.0, -1.0, 0.0], [-2 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(logits.cpu(), expected)


@needs_gpu
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_auto_takes_them(reduction):
    hidden, weight = torch.randn(300, 64), torch.randn(1000, 64) / 8
    targets = torch.randint(1000, (300,))

    def loss(h, w):
        options = {"reduction": reduction, "chunk_size": 128}
        return linear_cross_entropy(rms_norm(h, None, 1e-5), w, targets.to(h.device), **options)

    assert max(errors(loss, loss, [hidden, weight])) < TRITON_SMALL
    dispatch.reset()
    loss(hidden.cuda(), weight.cuda())
    assert dispatch.used() == {"norm": "triton", "cross_entropy": "triton"}


@needs_gpu
def test_the_heads_gradient_is_added_up_in_fp32():
    """Blocks of tokens in bf16: 64 of them lose no more than one."""
    hidden, weight = torch.randn(4096, 64).bfloat16(), (torch.randn(500, 64) / 8).bfloat16()
    targets = torch.randint(500, (4096,))

    def loss(size: int):
        return lambda h, w: linear_cross_entropy(h, w, targets.to(h.device), chunk_size=size)

    many, one = (errors(loss(size), loss(4096), [hidden, weight.float()]) for size in (64, 4096))
    assert all(a <= 1.1 * b + 1e-5 for a, b in zip(many, one, strict=True)), (many, one)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["rows", "padded", "packed", "edges"])
@pytest.mark.parametrize(("columns", "activation"), [(4, "silu"), (3, None)])
def test_the_convolution_is_a_sum_of_shifted_rows(columns, activation, layout, dtype):
    from braidlm.ops.triton_conv import conv_triton

    length, width = 70, 9
    segments = layouts(length, 16)[layout]
    x = torch.randn(2, length, width + 4)[..., 2:-2].to(dtype)  # a slice of a wider projection
    weight, bias = torch.randn(width, columns).to(dtype), torch.randn(width).to(dtype)

    def here(x: Tensor) -> Segments | None:
        return None if segments is None else segments.to(x.device)

    def judge(x, w, b):
        options = {"activation": activation, "segments": here(x), "return_state": False}
        return only_real(causal_conv(x, w, b, **options, impl="naive")[0], here(x))

    def ours(x, w, b):
        return only_real(conv_triton(x, w, b, here(x), activation == "silu"), here(x))

    def form(x, w, b):
        return only_real(conv._depthwise(x, w, b, here(x), None, activation == "silu"), here(x))

    check(ours, form, judge, [x, weight, bias])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["rows", "padded", "packed"])
def test_a_convolution_walks_over_documents(layout, dtype):
    """Loads of 16 bytes, weights in fp32, walks that end within, before and behind documents."""
    from braidlm.ops.triton_conv import conv_triton

    length, width = 131, 264
    segments = layouts(length, 30)[layout]
    x = torch.randn(2, length, width + 16)[..., 8:-8].to(dtype)

    def here(x: Tensor) -> Segments | None:
        return None if segments is None else segments.to(x.device)

    def judge(x, w, b):
        options = {"activation": "silu", "segments": here(x), "return_state": False}
        return only_real(causal_conv(x, w, b, **options, impl="depthwise")[0], here(x))

    check(
        lambda x, w, b: only_real(conv_triton(x, w, b, here(x), True), here(x)),
        judge, judge, [x, torch.randn(width, 4), torch.randn(width)],
    )  # fmt: skip


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("layout", ["rows", "padded", "packed"])
def test_auto_takes_the_convolution_that_keeps_states(layout, has_state, dtype):
    length, width = int(torch.randint(150, 400, ())), 48
    segments = layouts(length, 16)[layout]
    n_docs = 2 if segments is None else segments.n_docs
    before = torch.randn(n_docs, 3, width)

    def form(impl):
        def both(x, w, b, state):
            here = None if segments is None else segments.to(x.device)
            given = state if has_state else None
            names = {"activation": "silu", "segments": here, "initial_state": given, "impl": impl}
            y, last = causal_conv(x, w, b, **names)
            assert last is not None
            return torch.cat([only_real(y, here).flatten(), last.flatten()])

        return both

    dispatch.reset()
    tensors = [torch.randn(2, length, width).to(dtype), torch.randn(width, 4), torch.randn(width)]
    check(form("auto"), form("depthwise"), form("naive"), [*tensors, before])
    assert ("triton" in dispatch.used()["conv"]) != has_state


def test_a_convolution_adds_up_its_weight_over_many_blocks(monkeypatch):
    from braidlm.ops import triton_conv

    for name, value in (("BACKWARD_WALK", 8), ("CHANNELS", 16), ("SHARES", {"ROWS": 2, "CB": 16})):
        monkeypatch.setattr(triton_conv, name, value)
    found = errors(
        lambda x, w: triton_conv.conv_triton(x, w, None, None, True),
        lambda x, w: causal_conv(x, w, None, activation="silu", impl="naive")[0],
        [torch.randn(2, 20, 20), torch.randn(20, 4)],
    )
    assert max(found) < TRITON_SMALL


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "multiplier"), [((3, 5, 26), 1.0), ((4, 2100), -0.7)], ids=str)
def test_one_half_gates_the_other(shape, multiplier, dtype):
    from braidlm.ops.triton_swiglu import swiglu_triton

    def form(p):
        return swiglu(p, multiplier, impl="torch")

    wide = torch.randn(*shape[:-1], shape[-1] + 8).to(dtype)
    check(lambda p: swiglu_triton(p, multiplier), form, form, [3 * wide[..., 4:-4]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multiplier", [1.0, -0.7])
def test_what_a_product_reads_is_found_again_going_back(multiplier, dtype):
    from braidlm.ops.triton_swiglu import swiglu_linear_triton

    wide = torch.randn(3, 7, 60).to(dtype)
    check(
        lambda p, w: swiglu_linear_triton(p, w, multiplier),
        lambda p, w: swiglu(p, multiplier, impl="torch") @ w.t(),
        lambda p, w: swiglu(p, multiplier, impl="torch") @ w.t(),
        [3 * wide[..., 4:-4], torch.randn(11, 26).to(dtype)],
    )


def test_only_the_inputs_are_kept():
    from braidlm.ops.triton_swiglu import swiglu_linear_triton

    p = torch.randn(5, 24, device=DEVICE, requires_grad=True)
    weight = torch.randn(4, 12, device=DEVICE, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        swiglu_linear_triton(p, weight, 1.0)
    assert {v.data_ptr() for v in kept} == {p.data_ptr(), weight.data_ptr()}


def test_a_gradient_that_is_no_matrix_of_its_own():
    from braidlm.ops.triton_swiglu import swiglu_triton

    found = errors(
        lambda p: swiglu_triton(p, 1.0).sum(0),
        lambda p: swiglu(p, impl="torch").sum(0),
        [torch.randn(5, 3, 12)],
    )
    assert max(found) < TRITON_SMALL


@needs_gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_graphs_hold_them_whole():
    x, weight = torch.randn(2, 50, 16, device="cuda"), torch.randn(16, 4, device="cuda")
    head = torch.randn(40, 16, device="cuda")
    targets = torch.randint(40, (2, 50), device="cuda")
    args = [v.requires_grad_() for v in (x, weight, head)]

    def loss(x, w, h):
        y, _ = causal_conv(x, w, None, activation="silu", return_state=False)
        return linear_cross_entropy(rms_norm(y, None, 1e-5), h, targets)

    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*args), args)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "n_pairs"), [((2, 7, 3, 8), 4), ((1, 70, 1, 12), 3), ((2, 1, 5, 6), 3)], ids=str
)
def test_rotations_are_the_formula(shape, n_pairs, dtype):
    from braidlm.ops.triton_rope import rope_triton

    places = torch.randint(200, shape[:2])
    wide = torch.randn(*shape[:2], 2 * shape[2], shape[3]).to(dtype)
    frequency = rope_frequencies(2 * n_pairs, 100.0)

    def form(function, x):
        x = x[:, :, 1 : 1 + shape[2]]  # a slice of a wider projection
        angles = rope_angles(places.to(x.device), frequency.to(x.device), x.dtype, 1.5)
        return function(x, *angles)

    check(
        lambda x: form(rope_triton, x), lambda x: form(rope._torch, x),
        lambda x: form(rope._torch, x), [wide],
    )  # fmt: skip
