"""Laws of a batch: what a sequence gives does not depend on what lies beside it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from braidlm.laws.gap import Gap, Plan, gap
from braidlm.laws.subject import Subject

N_ROWS = 3


def batch(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Rows of one length: each gets what it gets alone."""
    for length in plan.lengths:
        tokens = plan.tokens(subject, N_ROWS, length)
        together, _ = subject(tokens, keep=False)
        for row in range(N_ROWS):
            alone, _ = subject(tokens[row : row + 1], keep=False)
            yield gap(f"row {row} of {N_ROWS}, {length} tokens", together[row], alone[0])


def left_padding(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Rows padded on the left get what they get alone, and so does one more step."""
    yield from _padded(subject, plan, "left")


def right_padding(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Rows padded on the right get what they get alone, and so does one more step."""
    yield from _padded(subject, plan, "right")


def _padded(subject: Subject, plan: Plan, side: str) -> Iterator[Gap]:
    """Padding holds random tokens: a model that reads it cannot hide that."""
    for longest in plan.lengths:
        real = _row_lengths(longest)
        tokens = plan.tokens(subject, len(real), longest + 1)
        mask = mask_of(real, longest, side).to(tokens.device)
        together, cache = subject(tokens[:, :longest], mask)
        step = tokens[:, longest:]
        goes_on = side == "left" or subject.continues_right_padding
        after = subject(step, None, cache)[0] if goes_on else None
        for row, n in enumerate(real):
            document = tokens[row, :longest][mask[row]]
            expected, cache = subject(document[None])
            found = together[row][mask[row]]
            if after is not None:
                last, _ = subject(step[row : row + 1], None, cache)
                found = torch.cat([found, after[row]])
                expected = torch.cat([expected, last], dim=1)
            then = " and a step" if goes_on else ""
            case = f"row of {n}{then}, padded on the {side} to {longest}"
            yield gap(case, found, expected[0])


def _row_lengths(longest: int) -> list[int]:
    return sorted({longest, longest // 2 + 1, min(3, longest), 1}, reverse=True)


def mask_of(lengths: list[int], longest: int, side: str) -> Tensor:
    """Return (B, T) bool, true at real tokens of rows padded on one side."""
    column = torch.arange(longest)
    real = torch.tensor(lengths)[:, None]
    return column >= longest - real if side == "left" else column < real


def packed(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Documents behind each other in one row: each gets what it gets alone."""
    span = subject.span
    for lengths in ((1, 2, span, span + 1), (span, span, 3), (span + 2, 1, 1, 2 * span)):
        tokens = plan.tokens(subject, 1, sum(lengths))
        together = subject.pack(tokens, lengths)[0]
        rows = zip(tokens[0].split(lengths), together.split(lengths), strict=True)
        for index, (document, found) in enumerate(rows):
            alone, _ = subject(document[None], keep=False)
            case = f"document {index} of {', '.join(map(str, lengths))} tokens in one row"
            yield gap(case, found, alone[0])
