"""Surgery on states: which kind of memory carries an answer from the fact to the question.

Two prompts A and B differ in one fact alone, and so in the answer. Both are read up to just before
the question. The question is then asked of four states, that hold the KV caches (kv) of one prompt
and the recurrent memories (rec) of one::

    s(kv, rec)  = (P(answer B) - P(answer A)) / 2           share of probability, -1/2 .. 1/2
    kv effect   = (s(B, A) - s(A, A) + s(B, B) - s(A, B)) / 2
    rec effect  = (s(A, B) - s(A, A) + s(B, B) - s(B, A)) / 2
    interaction = (s(B, B) - s(A, B) - s(B, A) + s(A, A)) / 2
    total       = s(B, B) - s(A, A) = kv effect + rec effect

The total is what moves from one answer to the other, at most 1. A positive interaction says that
both memories must agree; a negative one, that either is enough. Every state here is a mixture of
two that the model reaches by reading; of (A, A) and (B, B) it is asked as always.

Source: interchange interventions, Geiger et al. 2021 (arXiv 2106.02997); effects of a 2x2 factorial
    design: Box, Hunter and Hunter, Statistics for Experimenters (2005), chapter 5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from braidlm.analysis.memories import KINDS, Memory, exchange, memories
from braidlm.generate.mode import precise_logits

CELLS = (("A", "A"), ("B", "A"), ("A", "B"), ("B", "B"))
"""Whose KV caches and whose recurrent memories are asked, in the order of `Answers.cells`."""


class Twins(NamedTuple):
    """n pairs of prompts of equal lengths; each pair differs in one fact."""

    a: Tensor
    """(n, T) int64: prompts A, up to just before the question."""
    b: Tensor
    """(n, T) int64: prompts B."""
    question: Tensor
    """(n, Q) int64, Q at least 1: the same for both."""
    answer_a: Tensor
    """(n, K) int64, K at least 1: what is right after A."""
    answer_b: Tensor
    """(n, K) int64"""
    c: Tensor | None = None
    """(n, T) int64: prompts that differ from A elsewhere, so that the answer is A's."""


class Answers(NamedTuple):
    """log P of both answers in nats, (..., n, 2): of A, of B."""

    cells: Tensor
    """(4, n, 2) in the order of `CELLS`."""
    alone: Tensor
    """(m, n, 2): state of A, one memory of B."""
    without: Tensor
    """(m, n, 2): state of B, one memory of A."""
    control: Tensor
    """(2, n, 2): the KV caches, the recurrent memories taken from a second reading of A."""
    same_answer: Tensor
    """(3, n, 2): the KV caches, the recurrent memories, both of C; nan without one."""
    memories: list[Memory]
    """The m memories that were exchanged by themselves."""


def interchange(
    model: nn.Module, twins: Twins, *, layers: Collection[int] | None = None
) -> Answers:
    """Ask the questions of every mixture of the two prompts' memories.

    Args:
        model: called as `HybridLM` is; in evaluation mode without gradients, see
            `generate.mode.inference`.
        twins: the prompts.
        layers: sublayers whose memories are exchanged by themselves too; None: all.
    """
    a, b, again = (model(tokens).state for tokens in (twins.a, twins.b, twins.a))
    assert a is not None
    assert b is not None
    assert again is not None
    found = memories(a)
    of_kind = {kind: {m for m in found if m.kind == kind} for kind in KINDS}
    kv, recurrent = of_kind["kv"], of_kind["recurrent"]

    def ask(receiver: Any, donor: Any, taken: set[Memory]) -> Tensor:
        return answer_log_p(model, exchange(receiver, donor, taken), twins)

    cells = [ask(a, b, taken) for taken in (set(), kv, recurrent, kv | recurrent)]
    control = [ask(a, again, taken) for taken in (kv, recurrent)]
    each = [m for m in found if layers is None or m.layer in layers]
    alone = [ask(a, b, {m}) for m in each]
    without = [ask(b, a, {m}) for m in each]
    same = [torch.full((len(twins.a), 2), torch.nan, dtype=torch.float64)] * 3
    if twins.c is not None:
        c = model(twins.c).state
        same = [ask(a, c, taken) for taken in (kv, recurrent, kv | recurrent)]
    rows = (_stacked(part, twins) for part in (cells, alone, without, control, same))
    return Answers(*rows, each)  # pyright: ignore[reportCallIssue]


def _stacked(parts: Sequence[Tensor], twins: Twins) -> Tensor:
    empty = torch.empty(0, len(twins.a), 2, dtype=torch.float64)
    return torch.stack(list(parts)) if parts else empty


def answer_log_p(model: nn.Module, state: Any, twins: Twins) -> Tensor:
    """Return log P of both whole answers after the question, (n, 2) in nats; `state` is used up."""
    if twins.answer_a.shape[1] == 1:
        logits = _logits(model, twins.question, state, 1)[:, 0].log_softmax(-1)
        wanted = torch.cat((twins.answer_a, twins.answer_b), dim=1)
        return logits.gather(-1, wanted).double().cpu()
    copy = exchange(state, state, ())
    found = [
        _forced(model, twins.question, answer, memory)
        for answer, memory in ((twins.answer_a, copy), (twins.answer_b, state))
    ]
    return torch.stack(found, dim=1)


def _forced(model: nn.Module, question: Tensor, answer: Tensor, state: Any) -> Tensor:
    """log P (n,) of an answer (n, K), each token given those before it."""
    n_asked = answer.shape[1]
    logits = _logits(model, torch.cat((question, answer[:, :-1]), dim=1), state, n_asked)
    log_p = logits.log_softmax(-1).gather(-1, answer[..., None])[..., 0]
    return log_p.double().sum(1).cpu()


def _logits(model: nn.Module, tokens: Tensor, state: Any, n_last: int) -> Tensor:
    """Logits (n, n_last, V) at the last places."""
    hidden = model(tokens, state=state, return_state=False).hidden
    return precise_logits(model, hidden[:, -n_last:])


class Effects(NamedTuple):
    """What exchanges do to s, each (n,) float64; see the formulas above."""

    kv: Tensor
    recurrent: Tensor
    interaction: Tensor
    total: Tensor


def effects(scores: Tensor) -> Effects:
    """Return the effects on any score (4, n) of the cells, see `CELLS`; `score` gives shares."""
    aa, ba, ab, bb = scores
    return Effects(
        kv=(ba - aa + bb - ab) / 2,
        recurrent=(ab - aa + bb - ba) / 2,
        interaction=(bb - ab - ba + aa) / 2,
        total=bb - aa,
    )


def score(log_p: Tensor) -> Tensor:
    """Return s = (P(B) - P(A)) / 2 (...) of log P (..., 2)."""
    p = log_p.exp()
    return (p[..., 1] - p[..., 0]) / 2


def log_odds(log_p: Tensor) -> Tensor:
    """Return log P(B) - log P(A) (...) in nats: tells of memories where the answer is not said."""
    return log_p[..., 1] - log_p[..., 0]
