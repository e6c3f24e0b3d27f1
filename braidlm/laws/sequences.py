"""Laws of one sequence: what has been seen, however it was cut, decides what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from braidlm.laws.gap import Gap, Plan, gap
from braidlm.laws.subject import Subject

MAX_STEPS = 24
"""Single steps after one prefill."""


def causality(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Change one token: the logits before it stay."""
    for length in plan.lengths:
        tokens = plan.tokens(subject, 1, length)
        before, _ = subject(tokens, keep=False)
        for at in _changed(length, subject.span):
            changed = tokens.clone()
            changed[0, at] = (changed[0, at] + 1) % subject.vocab_size
            after, _ = subject(changed, keep=False)
            case = f"{length} tokens, token {at} changed"
            yield gap(case, after[0, :at], before[0, :at])


def _changed(length: int, span: int) -> list[int]:
    """The last token, the middle one, and those on both sides of the edges of chunks."""
    edges = {span - 1, span, 2 * span, 3 * span, length // 2, length - 1}
    return sorted(at for at in edges if 0 < at < length)


def steps(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Prefill, then one token at a time: the logits of one full forward."""
    for length in plan.lengths:
        tokens = plan.tokens(subject, 1, length)
        whole, _ = subject(tokens, keep=False)
        for prefill in _prefills(length, subject.span):
            n = min(length - prefill, MAX_STEPS)
            found, _ = in_parts(subject, tokens, (prefill, *[1] * n))
            case = f"a prefill of {prefill}, then {n} single steps"
            end = prefill + n
            yield gap(case, found[0], whole[0, :end])


def _prefills(length: int, span: int) -> list[int]:
    starts = {1, span - 2, span - 1, span, length // 2, length - MAX_STEPS, length - 1}
    return sorted(n for n in starts if 0 < n < length)


def continuation(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Prefill, then all other tokens in one call: the logits of one full forward."""
    for length in plan.lengths:
        tokens = plan.tokens(subject, 1, length)
        whole, _ = subject(tokens, keep=False)
        for prefill in _prefills(length, subject.span):
            if length - prefill < 2:
                continue
            parts = (prefill, length - prefill)
            found, _ = in_parts(subject, tokens, parts)
            case = f"a prefill of {prefill}, then {parts[1]} in one call"
            yield gap(case, found[0], whole[0])


def carried(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Segments with carried state, single tokens among them: the logits of one full forward."""
    for length in plan.lengths:
        tokens = plan.tokens(subject, 1, length)
        whole, _ = subject(tokens, keep=False)
        parts = _parts(length, subject.span)
        found, _ = in_parts(subject, tokens, parts)
        yield gap(f"segments of {', '.join(map(str, parts))} tokens", found[0], whole[0])


def _parts(length: int, span: int) -> tuple[int, ...]:
    """Segments shorter and longer than the convolution's window, a chunk, and single tokens."""
    parts: list[int] = []
    for n in (3, 1, span, 2, 1, span + 1, length):
        parts.append(min(n, length - sum(parts)))
    return tuple(n for n in parts if n)


def chunks(subject: Subject, plan: Plan) -> Iterator[Gap]:
    """Other chunk sizes give the same logits."""
    tokens = plan.tokens(subject, 1, plan.longest)
    whole, _ = subject(tokens, keep=False)
    span = subject.span
    for size in sorted({max(1, span // 2), span + 3, 2 * span}):
        found, _ = subject.rechunked(size)(tokens, keep=False)
        case = f"{plan.longest} tokens in chunks of {size} instead of the configured size"
        yield gap(case, found[0], whole[0])


def in_parts(subject: Subject, tokens: Tensor, parts: Sequence[int]) -> tuple[Tensor, Any]:
    """Return logits (B, sum(parts), V) of calls that each continue the last, and the cache."""
    logits, cache = [], None
    for part in tokens[:, : sum(parts)].split(list(parts), dim=1):
        out, cache = subject(part, cache=cache)
        logits.append(out)
    return torch.cat(logits, dim=1), cache
