"""Loss of tokens that repeat an earlier bigram of their context, against all others.

Token t is a repeat if (x_{t-1}, x_t) stood in the document before; its distance is that to the
latest such place. A model with a memory of its context predicts a repeat from there, and a model
without one cannot. It is recall on real text::

    bos A b c A b       the second b is a repeat of distance 3, all other tokens are not

Among repeats, `latest` are those that follow the latest occurrence of x_{t-1}: an induction head
needs no more than that to be right.

Source: "associative recall hits", Arora et al. 2023 (arXiv 2312.04927), section 3, here without
    their bound on how often a bigram was seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from braidlm.analysis.instrument import Finding, Instrument, Row, Subject, Tell, cells
from braidlm.arch import Sublayer
from braidlm.tasks.scoring import score
from braidlm.tasks.stats import ratio

LATEST = "latest"
OTHER = 0
"""Distance of a token that repeats nothing."""


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Every language model has a loss."""
    return None


def run(subject: Subject, tell: Tell) -> Finding:
    """Score every document, and part its tokens by what they repeat."""
    documents, found = subject.inputs.documents, []
    for done, document in enumerate(documents, start=1):
        tokens = document.tokens
        (loss,) = score(subject.model, [tokens], len(tokens))
        distance, is_latest = repeats(tokens)
        found.append((loss, distance[1:], is_latest[1:]))
        tell(done, len(documents))
    longest = max(len(loss) for loss, _, _ in found)
    groups: list[Row] = [
        {"tokens": "repeat", "start": 1, "end": longest + 1},
        {"tokens": "other", "start": OTHER, "end": 1},
        {"tokens": LATEST, "start": 1, "end": longest + 1},
        {"tokens": "all", "start": OTHER, "end": longest + 1},
    ]
    bins: list[Row] = [{"start": 2**k, "end": 2 ** (k + 1)} for k in range(longest.bit_length())]
    kinds = [row | _loss(found, row) for row in groups]
    table = [row | _loss(found, row) for row in bins]
    return Finding(
        "repeat",
        _metrics(found, kinds),
        {
            "by_kind": kinds,
            "by_distance": [row for row in table if row["n_tokens"]],
        },
        _rows(subject, found, groups),
    )


def repeats(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each token how far back its bigram stood last, and whether that is the latest.

    Args:
        tokens: (T,) int64.

    Returns:
        (T,) int64 distances, 0 where the bigram is new; (T,) bool, true where the latest earlier
        occurrence of x_{t-1} was followed by x_t too.
    """
    seen: dict[tuple[int, int], int] = {}
    after: dict[int, int] = {}
    distance = np.zeros(len(tokens), dtype=np.int64)
    is_latest = np.zeros(len(tokens), dtype=bool)
    ids = tokens.tolist()
    for t in range(1, len(ids)):
        pair = (ids[t - 1], ids[t])
        if pair in seen:
            distance[t] = t - seen[pair]
            is_latest[t] = after[pair[0]] == pair[1]
        seen[pair], after[pair[0]] = t, pair[1]
    return distance, is_latest


Scored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of a document's tokens but the first: loss in nats, distance, whether it follows the latest."""


def _inside(scored: Scored, group: Row) -> np.ndarray:
    _, distance, is_latest = scored
    inside = (distance >= group["start"]) & (distance < group["end"])
    return inside & is_latest if group.get("tokens") == LATEST else inside


def _loss(found: Sequence[Scored], group: Row) -> Row:
    """Mean loss of a group's tokens; the error is over documents."""
    inside = [_inside(scored, group) for scored in found]
    sums = [float(loss[own].sum()) for (loss, _, _), own in zip(found, inside, strict=True)]
    counts = [int(own.sum()) for own in inside]
    row = cells("loss", ratio(sums, counts))
    return row | {"n_tokens": sum(counts), "n": sum(n > 0 for n in counts)}


def _metrics(found: Sequence[Scored], groups: Sequence[Row]) -> dict[str, Any]:
    metrics = {}
    for row in groups:
        inside = [_inside(scored, row) for scored in found]
        sums = [float(loss[own].sum()) for (loss, _, _), own in zip(found, inside, strict=True)]
        metrics[row["tokens"]] = ratio(sums, [own.sum() for own in inside]).as_metric("nats")
    n_repeats = [float((distance > OTHER).sum()) for _, distance, _ in found]
    share = ratio(n_repeats, [len(distance) for _, distance, _ in found])
    return metrics | {"share": share.as_metric("share of tokens")}


def _rows(subject: Subject, found: Sequence[Scored], groups: Sequence[Row]) -> list[Row]:
    """Sums and counts of each document, so that two models can be paired."""
    rows = []
    for document, scored in zip(subject.inputs.documents, found, strict=True):
        row: Row = {"id": document.id}
        for group in groups[:2]:
            inside = _inside(scored, group)
            name = group["tokens"]
            row |= {f"{name}_nll": float(scored[0][inside].sum()), f"{name}_n": int(inside.sum())}
        rows.append(row)
    return rows


INSTRUMENT = Instrument(
    name="repeats",
    title="Loss of tokens that repeat a bigram of their context, and of all others",
    unit="nats",
    source="associative recall hits, Arora et al. 2023 (arXiv 2312.04927)",
    why_not=why_not,
    run=run,
    needs="text",
)
