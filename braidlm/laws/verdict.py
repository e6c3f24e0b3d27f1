"""One law held against one model: pass, FAIL with a place and a hint, or not applicable and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from braidlm.laws.catalogue import TOLERANCES, Law
from braidlm.laws.gap import Gap, Plan
from braidlm.laws.subject import NotApplicableError, Subject

Status = Literal["pass", "fail", "not applicable"]
EXACT = TOLERANCES["fp64"]


@dataclass(frozen=True)
class Verdict:
    """What one law says of one model."""

    law: str
    says: str
    """What must hold."""
    status: Status
    error: float | None = None
    """The largest error of all cases; None if the law is not applicable, or the model crashed."""
    tolerance: float | None = None
    unit: str = ""
    """What error and tolerance are multiples of."""
    n_cases: int = 0
    case: str = ""
    """The case with the largest error."""
    first_position: int | None = None
    """The first position beyond the tolerance in the first case that fails, if it has one."""
    in_fp64: float | None = None
    """The error of a failing law in fp64 throughout: whether it is rounding."""
    hint: str = ""
    """One sentence on where to look; empty unless the law fails."""
    reason: str = ""
    """Why the law is not applicable, or what else is to be known."""


def judge(law: Law, subject: Subject, plan: Plan, tolerance: float, exact: bool) -> Verdict:
    """Hold one law against a model.

    Args:
        law: the law.
        subject: the model.
        plan: what it is fed.
        tolerance: the largest error that passes.
        exact: whether a failure is measured again in fp64, which tells a defect from rounding.
    """
    try:
        with torch.no_grad():
            gaps = list(law.measure(subject, plan))
    except NotApplicableError as error:
        return Verdict(law.name, law.says, "not applicable", reason=_one_line(str(error)))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        # A crash is a finding of its own, and the other laws are still to be heard.
        if "memory" in str(error):
            raise
        told = f"it raises {type(error).__name__}: {_one_line(str(error))}"
        return Verdict(law.name, law.says, "fail", None, tolerance, law.unit, hint=told)
    return _weigh(law, subject, plan, gaps, tolerance, exact)


def _weigh(
    law: Law, subject: Subject, plan: Plan, gaps: list[Gap], tolerance: float, exact: bool
) -> Verdict:
    worst = max(gaps, key=lambda gap: gap.largest)
    failing = [gap for gap in gaps if gap.largest > tolerance]
    told = Verdict(
        law.name, law.says, "pass", worst.largest, tolerance, law.unit, len(gaps), worst.case
    )
    if not failing:
        return told
    first = failing[0].first_beyond(tolerance)
    again = _in_fp64(law, subject, plan) if exact and law.tolerance is None else None
    if again is not None and again <= EXACT:
        reason = f"rounding: {again:.1e} in fp64, so that it passes"
        return replace(told, status="pass", in_fp64=again, reason=reason)
    return replace(
        told,
        status="fail",
        case=failing[0].case if first is not None else worst.case,
        first_position=first,
        in_fp64=again,
        hint=law.hint,
    )


def _in_fp64(law: Law, subject: Subject, plan: Plan) -> float | None:
    """Return the largest error in fp64, or None where the model cannot run so."""
    try:
        with torch.no_grad():
            return max(gap.largest for gap in law.measure(subject.typed(torch.float64), plan))
    except (NotApplicableError, RuntimeError, ValueError, TypeError):
        return None


def _one_line(text: str) -> str:
    """Return the first line of a message, at most 300 characters."""
    return text.strip().partition("\n")[0][:300]
