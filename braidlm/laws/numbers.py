"""Laws of numbers: precision, initial values, and what a configuration promises."""

from __future__ import annotations

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
    tokens = plan.tokens(subject, 1, plan.longest)
    narrow = subject.typed(dtype)
    found, _ = narrow(tokens)
    expected, _ = narrow.typed(torch.float64)(tokens)
    name = str(dtype).removeprefix("torch.")
    yield relative_gap(f"{plan.longest} tokens, {name} against fp64", found[0], expected[0])


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
