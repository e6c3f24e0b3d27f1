"""Products of few rows and the steps beside them: on a GPU, elsewhere under the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.attention import KVCache, attention, reserve
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.dispatch import Call
from braidlm.ops.greedy import BROKEN, GREEDY
from braidlm.ops.norm import gated_rms_norm, rms_norm
from braidlm.ops.rows import OWED, ROWS, SETTLED, ConvStep, Ending, Read, product
from braidlm.ops.rows.naive import normed, product_naive
from braidlm.ops.ssd.projected import PROJECTED, Gate, Rates, projected_step
from tests.ops.compare import relative_l2
from tests.ops.kernels import DEVICE, HAS_GPU, checked
from tests.tolerances import TRITON_SMALL

pytestmark = checked
DTYPES = [torch.float32, torch.bfloat16] if HAS_GPU else [torch.float32]
N_ROWS = [1, 3]
BF16 = 6e-3
"""Relative error against fp64 of the same inputs: 2^-9, and what is rounded inside."""


@pytest.fixture(scope="module", autouse=True)
def _triton():
    """tests/conftest.py has chosen the interpreter where it is needed."""
    pytest.importorskip("triton")


def moved(value: Any, dtype: torch.dtype | None, device: str) -> Any:
    """Return a copy of nested tuples of tensors; a `dtype` of None keeps each tensor's own."""
    if isinstance(value, Tensor):
        return value.detach().to(device, dtype or value.dtype).clone()
    if isinstance(value, tuple):
        parts = [moved(v, dtype, device) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def near(ours: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    assert bool(ours.isfinite().all())
    assert relative_l2(ours.cpu(), truth) < (BF16 if dtype == torch.bfloat16 else TRITON_SMALL)


def compare(read: Read, weight: Tensor, bias: Tensor | None, ending: Ending) -> None:
    """The kernels against the formulas in fp64, the convolution's state included."""
    from braidlm.ops.rows.blas import product_blas
    from braidlm.ops.rows.few import product_few
    from braidlm.ops.rows.triton import product_triton

    forms = [product_triton, product_blas]
    if weight.shape[1] % 8 == 0 and (not HAS_GPU or torch.cuda.get_device_capability()[0] >= 9):
        forms.append(product_few)
    dtype = weight.dtype
    truth = moved((read, weight, bias, ending), torch.float64, "cpu")
    expected = product_naive(truth[0], truth[1], truth[2], truth[3], torch.float64)
    for form in forms:
        ours = moved((read, weight, bias, ending), None, DEVICE)
        for wanted in {torch.float32, dtype}:
            state = ours[3].conv and ours[3].conv.state.clone()
            near(form(ours[0], ours[1], ours[2], ours[3], wanted), expected, dtype)
            if state is not None:
                near(ours[3].conv.state, truth[3].conv.state, dtype)
                ours[3].conv.state.copy_(state)


def drawn(n: int, dtype: torch.dtype, n_out: int = 70, width: int = 90):
    torch.manual_seed(n)
    weight = torch.randn(n_out, width) * width**-0.5
    return torch.randn(n, width).to(dtype), weight.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", N_ROWS)
@pytest.mark.parametrize("is_summed", [False, True])
def test_a_product_begins_with_any_norm(n, is_summed, dtype):
    x, weight = drawn(n, dtype)
    squares = torch.rand(n, 5) + 1.0 if is_summed else None
    read = Read(x, True, torch.randn(90), 1.0, 1e-5, squares)
    compare(read, weight, torch.randn(70), Ending())
    wide = torch.randn(n, 200)[:, 30:120]
    compare(Read(wide.to(dtype)), weight, None, Ending())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", N_ROWS)
@pytest.mark.parametrize(
    "activation", ["silu", *(pytest.param(a, marks=pytest.mark.slow) for a in ("gelu", "relu2"))]
)
def test_a_product_ends_with_a_gate_and_a_sum(n, activation, dtype):
    x, weight = drawn(n, dtype)
    for gated in (True, False):
        n_out = 35 if gated else 70
        old = torch.randn(n, n_out).to(dtype)
        ending = Ending(activation, gated, residual=old, factor=0.7)
        compare(Read(x, True, eps=1e-5), weight, torch.randn(70), ending)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", N_ROWS)
@pytest.mark.parametrize("width", [1, 4])
def test_a_product_ends_with_a_convolution(n, width, dtype):
    x, weight = drawn(n, dtype)
    state = torch.randn(n, width - 1, 33)
    conv = ConvStep(21, torch.randn(33, width), torch.randn(33) if width > 1 else None, state)
    compare(Read(x, True, torch.randn(90), 0.0, 1e-5), weight, None, Ending(conv=conv))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, *([64, 70] if HAS_GPU else [])])
def test_few_rows_meet_tiles_of_the_weights(n, dtype):
    """Every tile but the last is full, of rows, of inputs and of outputs."""
    n_out, width = (136, 200) if HAS_GPU else (40, 40)
    x, weight = drawn(n, dtype, n_out, width)
    old = torch.randn(n, n_out).to(dtype)
    read = Read(x, True, None, 0.0, 1e-5, torch.rand(n, 5) + 1.0)
    compare(read, weight, None, Ending(residual=old, factor=0.7))
    bias, half = torch.randn(n_out), n_out // 2
    compare(Read(x, True, torch.randn(width), 1.0, 1e-5), weight, bias, Ending())
    compare(Read(x), weight, bias, Ending("silu", True, residual=old[:, half:]))
    conv = ConvStep(5, torch.randn(33, 4), torch.randn(33), torch.randn(n, 3, 33))
    compare(Read(x), weight, None, Ending(conv=conv))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, *([64, 70] if HAS_GPU else [])])
@pytest.mark.parametrize(("n_out", "width"), [(136, 600), (64, 256)])
def test_a_sum_over_shares_is_owed_until_the_next_norm(n, n_out, width, dtype):
    """Shares and outputs that are full, and last ones that are not; a norm before, known or not."""
    x, weight = drawn(n, dtype, n_out, width)
    old, scale = torch.randn(n, n_out + 8).to(dtype)[:, 8:], torch.randn(n_out).to(dtype)
    squares, scale_of_x = torch.rand(n, 5) + 1.0, torch.randn(width).to(dtype)
    ways = [Read(x), Read(x, True, None, 0.0, 1e-5, squares), Read(x, True, scale_of_x, 1.0)]
    after = Read(old, True, scale, 1.0, 1e-5)
    for read in ways:
        truth = moved((read, weight, after), torch.float64, "cpu")
        ending = Ending(residual=truth[2].x, factor=0.7)
        expected = product_naive(truth[0], truth[1], None, ending, torch.float64)
        there = moved((read, weight, after), None, DEVICE)
        owed = OWED.implementations[0].function(there[0], there[1], 0.7)
        found = SETTLED.implementations[0].function(there[2], owed, dtype)
        near(found.x, expected, dtype)
        near(owed.added_to(there[2].x), expected, dtype)
        near(found.normed, normed(truth[2]._replace(x=expected), torch.float64), dtype)


def test_the_formulas_are_those_of_the_operators():
    """What a sublayer computes without `ops.rows`."""
    x, weight = (v.double() for v in drawn(3, torch.float32))
    scale, old = torch.randn(90).double(), torch.randn(3, 35).double()
    plain = Read(x, True, scale, 1.0, 1e-5)
    a, b = (rms_norm(x, scale, 1e-5, offset=1.0) @ weight.T).chunk(2, -1)
    ending = Ending("silu", True, residual=old, factor=0.5)
    torch.testing.assert_close(product(plain, weight, None, ending), old + 0.5 * F.silu(a) * b)


@pytest.mark.parametrize(
    ("n", "dtype", "hopper", "sizes", "expected"),
    [
        (1, torch.bfloat16, True, {}, "triton"),
        (1, torch.float32, True, {}, "triton"),
        (2, torch.bfloat16, True, {}, "few"),
        (64, torch.float16, True, {}, "few"),
        (65, torch.bfloat16, True, {}, "blas"),
        (2, torch.bfloat16, False, {}, "blas"),
        (2, torch.bfloat16, True, {"K": 68}, "blas"),
        (2, torch.bfloat16, True, {"at": 8}, "blas"),
        (2, torch.float32, True, {}, "blas"),
        (2, torch.float64, True, {}, "naive"),
    ],
)
def test_rows_dtype_and_machine_choose_the_form(n, dtype, hopper, sizes, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9 if hopper else 8, 0))
    sizes = {"n": n, "K": 64, "at": 512} | sizes
    assert ROWS.choose("auto", Call("cuda", dtype, sizes, False)).name == expected


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("groups", "limits"), [(1, (0.0, None)), (2, (0.02, 0.4))])
def test_the_projected_step_is_the_recurrence(n, groups, limits, norm_first):
    h, p, width = 4, 10, 12
    own = Rates(torch.randn(h), torch.randn(h), torch.randn(h), limits, groups)
    wide = torch.randn(n, h * p + 2 * groups * width + h + 5)
    wide[:, -1] = 30.0  # where softplus is the identity
    state, z = torch.randn(n, h, p, width), torch.randn(n, h * p + 3)
    scale = torch.randn(h * p) if groups == 1 else None
    gate = Gate(z[:, 3:], scale, norm_first, torch.float32)
    truth = moved((wide[:, 5:], own, state, gate), torch.float64, "cpu")
    gate_there = truth[3]._replace(dtype=torch.float64)
    expected, squares = projected_step(truth[0], truth[1], truth[2], gate_there, impl="naive")
    there = wide.to(DEVICE)
    ours, held = moved(own, None, DEVICE), state.to(DEVICE).clone()
    gate = gate._replace(z=z.to(DEVICE)[:, 3:], scale=moved(scale, None, DEVICE))
    run = PROJECTED.implementations[0].function
    found, sums = run(there[:, 5:], ours, held, gate)
    near(found, expected, torch.float32)
    near(sums.sum(-1, keepdim=True), squares, torch.float32)
    near(held, truth[2], torch.float32)
    assert not torch.equal(held.cpu(), state)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_gated_norm_is_a_factor_of_the_next_product(norm_first):
    """What a sublayer computes without `ops.rows`."""
    y, z, scale = torch.randn(3, 40).double(), torch.randn(3, 40).double(), torch.randn(40).double()
    weight = torch.randn(70, 40).double()
    u = y * F.silu(z)
    squares = (y if norm_first else u).square().view(3, 8, 5).sum(-1)
    found = product(Read(u * scale, True, None, 0.0, 1e-5, squares), weight)
    expected = gated_rms_norm(y, z, scale, 1e-5, norm_before_gate=norm_first)
    torch.testing.assert_close(found, expected @ weight.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "width", "v_width"), [(4, 2, 12, 12), (3, 3, 16, 20)])
def test_the_attention_of_a_step_reads_what_is_held(heads, kv, width, v_width, dtype):
    """Documents of several lengths, over more than one program's share of the keys."""
    from braidlm.ops.attention.triton_step import attention_step_triton

    lengths = torch.tensor([300, 1, 77, 0])
    k, v = (torch.randn(4, 300, kv, w).to(dtype) for w in (width, v_width))
    new = [
        torch.randn(4, 1, h, w).to(dtype) for h, w in ((heads, width), (kv, width), (kv, v_width))
    ]
    cache = reserve(KVCache(k.clone(), v.clone(), lengths), 1)
    cache.k[1, 1:].fill_(torch.nan)  # a free place is never read
    there = moved(cache, None, DEVICE)
    settings = {"segments": None, "scoring": Scoring(0.3), "window": None, "return_state": True}
    found, after = attention_step_triton(*(x.to(DEVICE) for x in new), cache=there, **settings)
    for row, length in enumerate(lengths.tolist()):
        alone = KVCache(
            k[row : row + 1, :length], v[row : row + 1, :length], lengths[row : row + 1]
        )
        alone = moved(alone, torch.float64, "cpu")
        alone = alone._replace(length=lengths[row : row + 1])
        q, k_new, v_new = (x[row : row + 1].double() for x in new)
        expected, _ = attention(q, k_new, v_new, cache=alone, scale=0.3, impl="naive")
        near(found[row : row + 1], expected, dtype)
        assert after is not None
        assert torch.equal(after.k[row, length].cpu(), new[1][row, 0])
        assert torch.equal(after.v[row, length].cpu(), new[2][row, 0])
    assert after is not None
    assert after.length.tolist() == [301, 2, 78, 1]


def test_a_token_without_a_place_gives_nothing():
    from braidlm.ops.attention.triton_step import attention_step_triton

    k, v = torch.randn(2, 1, 256, 1, 16)
    cache = reserve(KVCache(k, v, torch.tensor([256])), 0)
    q = torch.randn(1, 1, 1, 16)
    settings = {"segments": None, "scoring": Scoring(1.0), "window": None, "return_state": False}
    there = moved(cache, None, DEVICE)
    found, _ = attention_step_triton(*(q.to(DEVICE) for _ in range(3)), cache=there, **settings)
    assert bool(found.isnan().all())


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_the_most_probable_token_is_told(impl):
    logits = torch.randn(5, 9000)
    logits[0, [17, 8500]] = 9.0  # the first of equals
    logits[2, 8999] = 7.0
    logits[3, 4] = torch.nan
    logits[4, 8] = torch.inf
    there = [v.to(DEVICE) for v in (logits, torch.zeros(5, 1).long(), torch.zeros(3, 5).long())]
    at = torch.full((5,), 1, device=DEVICE)
    chosen = next(one for one in GREEDY.implementations if one.name == impl)
    chosen.function(*there, at)
    tokens, told = (v.cpu() for v in there[1:])
    assert told[1].tolist() == [17, int(logits[1].argmax()), 8999, BROKEN, BROKEN]
    assert tokens[:3, 0].tolist() == told[1, :3].tolist()
    assert bool((tokens[3:] >= 0).all())
    assert not bool(told[[0, 2]].any())
    assert at.tolist() == [2] * 5
