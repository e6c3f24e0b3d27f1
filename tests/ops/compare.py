"""How two forms of one operator are held against each other: outputs, states and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from braidlm.segments import Segments
from tests.tolerances import FORMS_FP64, Tolerance

Results = Sequence[Tensor | None]


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random input that asks for gradients."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def with_gradients(
    form: Callable[[], Results],
    inputs: Sequence[Tensor],
    arrive_in: torch.dtype = torch.float64,
) -> list[Tensor]:
    """The results of `form` and the gradients of one fixed random projection of them all, which a
    dtype holds without rounding: then forms in it and in fp64 are asked for the same."""
    results = [r for r in form() if r is not None]
    draw = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for r in results:
        weights = torch.randn(r.shape, generator=draw, dtype=torch.float64).to(arrive_in)
        loss = loss + (r.double() * weights.double()).sum()
    gradients = torch.autograd.grad(loss, list(inputs), materialize_grads=True)
    return [*(r.detach() for r in results), *gradients]


def assert_near(
    ours: Tensor | None, theirs: Tensor | None, tolerance: Tolerance = FORMS_FP64, name: str = ""
) -> None:
    """Both are there and agree within `tolerance`."""
    assert ours is not None, name
    assert theirs is not None, name
    torch.testing.assert_close(
        ours, theirs, rtol=tolerance.rtol, atol=tolerance.atol, msg=lambda m: f"{name}: {m}"
    )


def assert_same(
    form: Callable[[], Results],
    truth: Callable[[], Results],
    inputs: Sequence[Tensor],
    tolerance: Tolerance = FORMS_FP64,
) -> None:
    """Both forms give the same results and the same gradient of every input."""
    ours, theirs = with_gradients(form, inputs), with_gradients(truth, inputs)
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert_near(a, b, tolerance, f"tensor {i}")


def relative_l2(a: Tensor, truth: Tensor) -> float:
    """|a - truth| / |truth| over all elements."""
    a, truth = a.detach().double(), truth.detach()
    return float((a - truth).norm() / truth.norm().clamp_min(1e-30))


def only_real(y: Tensor, segments: Segments | None) -> Tensor:
    """`y` (B, T, ...) with padding zeroed: what is written there carries no meaning."""
    if segments is None:
        return y
    is_real = segments.is_real.view(*segments.shape, *(1,) * (y.dim() - 2))
    return torch.where(is_real, y, 0)


def layouts(length: int, chunk: int) -> dict[str, Segments | None]:
    """Ways to lay documents into two rows of `length` tokens, edges of chunks included."""
    found: dict[str, Segments | None] = {"rows": None}
    if length > 8:
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[0, :5] = False
        mask[1, -7:] = False
        found["padded"] = Segments.from_mask(mask)
    short = [1, 2, chunk, chunk + 1]
    if length > sum(short) + 2:
        rest = length - sum(short) - 2
        found["packed"] = Segments.from_lengths([[*short, rest], [chunk, rest]], length)
        ids = torch.arange(length).repeat(2, 1) // chunk
        ids[0, :chunk] = -1
        ids[1, chunk : chunk + 3] = -1
        found["edges"] = Segments.from_doc_ids(ids)
    return found


def every_layout(lengths: Sequence[int], chunk: int = 16) -> list[tuple[int, str]]:
    """Each length with the name of each of its layouts."""
    return [(length, name) for length in lengths for name in layouts(length, chunk)]
