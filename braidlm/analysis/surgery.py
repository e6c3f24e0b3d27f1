"""Which memory carries a fact to the question: KV caches, recurrent states, or both.

The 2x2 of `braidlm.analysis.interchange`, over pairs of prompts that differ in one fact alone
(`braidlm.analysis.twins`), by the distance between fact and question, and for each layer's memory
by itself: `alone` is what moves when it is the only one that comes from B, `without` what does not
move any more when it is the only one that stays A's. There are two controls. In one the memories
come from a second reading of the same prompt, which must change nothing at all. In the other they
come from a prompt C that differs from A as much as B does, but elsewhere, so that the answer is the
same: what moves then is what a mixture of two prompts costs by itself::

    kv_same_answer = s(kv of C, rec of A) - s(A, A), and so for rec and for both
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from braidlm.analysis.instrument import (
    Finding,
    Instrument,
    Row,
    Subject,
    Tell,
    cells,
    item,
    over_documents,
)
from braidlm.analysis.interchange import (
    CELLS,
    Effects,
    Twins,
    effects,
    interchange,
    log_odds,
    score,
)
from braidlm.analysis.memories import Memory, about
from braidlm.analysis.twins import batches, pairs_of
from braidlm.arch import Spec, Sublayer
from braidlm.generate.mode import device_of
from braidlm.tasks.stats import Estimate, exact

SAME = ("kv_same_answer", "recurrent_same_answer", "both_same_answer")
NATS = tuple(f"{name}_nats" for name in Effects._fields)


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer remembers anything."""
    if any(branch.role != "channel" for s in sublayers for branch in s.branches):
        return None
    return "no layer has a memory"


def run(subject: Subject, tell: Tell) -> Finding:
    """Exchange memories between the two prompts of every pair."""
    pairs = pairs_of(subject.inputs)
    rows: list[Row] = [{} for _ in pairs]
    by_memory: list[np.ndarray] = [np.empty(0) for _ in pairs]
    found: list[Memory] = []
    done = 0
    for numbers, tokens in batches(pairs, subject.model.spec.vocab_size):
        twins = _moved_to(device_of(subject.model), tokens)
        answers = interchange(subject.model, twins, layers=subject.layers)
        found = answers.memories
        for i, number in enumerate(numbers):
            rows[number] = _row(
                answers.cells[:, i], answers.control[:, i], answers.same_answer[:, i]
            )
            each = torch.stack((answers.alone[:, i], answers.without[:, i]))
            by_memory[number] = _moved(answers.cells[:, i], each)
        done += len(numbers)
        tell(done, len(pairs))
    rows = [{"id": p.id, "gap": p.gap} | row for p, row in zip(pairs, rows, strict=True)]
    tables = {
        "by_cell": _by_cell(rows),
        "by_distance": _by_distance(rows),
        "by_memory": _by_memory(found, by_memory, subject.model.spec),
    }
    return Finding("kv", _metrics(rows), tables, rows)


def _moved_to(device: torch.device, twins: Twins) -> Twins:
    a, b, question, answer_a, answer_b = (part.to(device) for part in twins[:5])
    c = None if twins.c is None else twins.c.to(device)
    return Twins(a, b, question, answer_a, answer_b, c)


def _row(log_p: torch.Tensor, control: torch.Tensor, same: torch.Tensor) -> Row:
    """What is stored of one pair, from log P (4, 2) of its cells, (2, 2) and (3, 2) of controls."""
    row: Row = {
        name: float(value)
        for name, value in zip(Effects._fields, effects(score(log_p)), strict=True)
    }
    row |= dict(zip(NATS, map(float, effects(log_odds(log_p))), strict=True))
    moved = score(same) - score(log_p)[0]
    row |= {name: float(value) for name, value in zip(SAME, moved, strict=True)}
    for (kv, recurrent), p in zip(CELLS, log_p.exp().tolist(), strict=True):
        row[f"p_{kv}{recurrent}"] = p
    return row | {"control": float((control - log_p[0]).abs().max())}


def _moved(log_p: torch.Tensor, each: torch.Tensor) -> np.ndarray:
    """(2, m): what moves with each memory alone, and what does not move without it."""
    aa, bb = score(log_p)[[0, 3]]
    alone, without = score(each)
    return torch.stack((alone - aa, bb - without)).numpy()


def _metrics(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    metrics = {}
    for name in (*Effects._fields, *NATS):
        unit = "nats" if name in NATS else "share"
        metrics[name] = _mean([row[name] for row in rows]).as_metric(unit)
    for name in SAME:
        metrics[name] = _mean_of(rows, name).as_metric("share")
    both = np.array([[row["kv"], row["total"]] for row in rows])
    metrics["kv_share"] = over_documents(_ratio, both).as_metric("share of the total")
    control = max(row["control"] for row in rows)
    return metrics | {"control": exact(control, len(rows), "nats")}


def _mean(values: Sequence[float]) -> Estimate:
    return over_documents(item, np.array(values)[:, None])


def _mean_of(rows: Sequence[Row], name: str) -> Estimate:
    """Mean over the pairs that have such a control."""
    found = [row[name] for row in rows if not math.isnan(row[name])]
    return _mean(found) if found else Estimate(math.nan, math.nan, 0)


def _ratio(means: np.ndarray) -> float:
    return float(means[0] / means[1]) if means[1] else float("nan")


def _by_cell(rows: Sequence[Row]) -> list[Row]:
    """P of both answers in each cell of the 2x2."""
    table = []
    for kv, recurrent in CELLS:
        row: Row = {"kv": kv, "recurrent": recurrent}
        for column, answer in enumerate("ab"):
            p = over_documents(
                item, np.array([[one[f"p_{kv}{recurrent}"][column]] for one in rows])
            )
            row |= cells(f"p_{answer}", p)
        table.append(row | {"n": len(rows)})
    return table


def _by_distance(rows: Sequence[Row]) -> list[Row]:
    """Effects for facts start .. end - 1 tokens before the end of the question; bins double."""
    table = []
    for k in range(max(row["gap"] for row in rows).bit_length()):
        start, end = 2**k, 2 ** (k + 1)
        inside = [row for row in rows if start <= row["gap"] < end]
        if not inside:
            continue
        line: Row = {"start": start, "end": end}
        for name in Effects._fields:
            line |= cells(name, _mean([row[name] for row in inside]))
        for name in SAME:
            line |= cells(name, _mean_of(inside, name))
        for cell in ("p_AA", "p_BA", "p_AB", "p_BB"):
            answer = int(cell == "p_BB")
            found = _mean([row[cell][answer] for row in inside])
            line |= cells(f"{cell}_{'ab'[answer]}", found)
        table.append(line | {"n": len(inside)})
    return table


def _by_memory(memories: Sequence[Memory], moved: Sequence[np.ndarray], spec: Spec) -> list[Row]:
    table = []
    for number, memory in enumerate(memories):
        line: Row = {**about(memory.place, spec), "memory": memory.kind}
        for row, name in enumerate(("alone", "without")):
            line |= cells(name, over_documents(item, [one[row, number, None] for one in moved]))
        table.append(line | {"n": len(moved)})
    return table


INSTRUMENT = Instrument(
    name="surgery",
    title="Which memory carries a fact to the question",
    unit="share",
    source="interchange interventions, Geiger et al. 2021 (arXiv 2106.02997); a 2x2 design",
    why_not=why_not,
    run=run,
)
