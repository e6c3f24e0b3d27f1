"""Laws of numbers: precision, initial values, and what a configuration promises."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from braidlm.laws.gap import Gap, Plan, relative_gap
from braidlm.laws.subject import Subject


def fp32(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """In fp32 the logits are those of fp64, to rounding."""
    yield from _against_fp64(subject, plan, torch.float32)


def bf16(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """In bf16 the logits stay near those of fp64 with the same rounded weights."""
    yield from _against_fp64(subject, plan, torch.bfloat16)


def _against_fp64(subject: Subject, plan: Plan, dtype: torch.dtype) -> Iterator[Gap]:
    """Hold what a dtype changes against what it changes to move every weight by one rounding.

    How much a model magnifies what is small is its own affair: some lose ten times as much to any
    rounding as others. Over one rounding of the weights all of them are near 1.
    """
    tokens = plan.tokens(subject, 1, plan.n_drift or plan.longest)
    narrow = subject.typed(dtype)
    exact = narrow.typed(torch.float64)
    expected = exact(tokens, keep=False)[0][0]
    moved = _shaken(exact, torch.finfo(dtype).eps / 2, plan.seed)(tokens, keep=False)[0][0]
    one_rounding = float((moved - expected).norm() / expected.norm())
    found = narrow(tokens, keep=False)[0][0]
    name = str(dtype).removeprefix("torch.")
    drift = relative_gap("", found, expected)
    case = f"{tokens.shape[1]} tokens, {name} against fp64: {drift.largest:.1e} relative L2"
    yield Gap(case, [error / one_rounding for error in drift.errors])


def _shaken(subject: Subject, most: float, seed: int) -> Subject:
    """Return a copy whose every weight is off by a random share of itself, at most so much."""
    generator = torch.Generator().manual_seed(seed)
    shaken = copy.deepcopy(subject)
    for parameter in shaken.model.parameters():
        noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
        parameter.data = parameter.data * (1 + most * noise.to(parameter))
    return shaken


def initialisation(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """A fresh model's dt, A and D lie in their published ranges."""
    for name, values, low, high, source in subject.drawn(plan.seed):
        found = values.detach().double()
        beyond = torch.maximum(low - found, found - high).clamp_min(0).max() / abs(high)
        is_range = f"{low:.4g} to {high:.4g}" if low < high else f"{low:.4g}"
        case = (
            f"{name} in {float(found.min()):.4g} to {float(found.max()):.4g}, "
            f"should be {is_range} ({source})"
        )
        yield Gap(case, [float(beyond)], None)


def accounting(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """What a configuration predicts is what is counted."""
    for what, predicted, measured in subject.accounts(plan.longest):
        case = f"{what}: predicted {predicted:,}, counted {measured:,}"
        yield Gap(case, [abs(measured - predicted) / max(1, abs(predicted))], None)
