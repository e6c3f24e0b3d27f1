"""Where attention looks: how far back, over how wide a span, how evenly, and how much at sinks.

With a_ts the weight that the query of token t gives to the key of token s, for one head::

    distance = sum_ts a_ts (t - s) / sum_ts a_ts                                           tokens
    rest     = the same without the first four tokens, where attention rests
    span     = mean_t (the least n for which the n nearest tokens have 90 % of t's weight) tokens
    entropy  = mean_t (- sum_s a_ts ln a_ts)                                               nats
    first, four = share of the weight on the document's first token, and on its first four
    learned, meta = share on the learned sink logit, and on meta tokens

distance, rest and span are of the weight on tokens of the document alone; the entropy counts meta
tokens and the learned sink as places like any other. Long documents are asked at `N_QUERIES` tokens
that are spread evenly. Every form of softmax attention is read: windows, grouped queries, latent
attention, borrowed keys, the cross-attention of a fusion, the two streams of a merge (`other`: the
share of the weight on keys of the second stream; of B'MOJO-F: on faded tokens).

Source: Vig and Belinkov 2019 (arXiv 1906.04284), distance and entropy of heads; Xiao et al. 2023
    (arXiv 2309.17453), sinks; the span is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
from braidlm.analysis.weights import Weighed, weigh
from braidlm.arch import Sublayer
from braidlm.mixers.reading import Scores

N_QUERIES = 1024
MASS = 0.9
N_FIRST = 4
COLUMNS = ("distance", "rest", "span", "entropy", "first", "four", "learned", "meta", "other")
_OVER = {"distance": "mass", "rest": "rest_mass", "span": "n_spans"}
"""What a sum is divided by, where it is not the number of queries."""

Sums = dict[str, np.ndarray]
"""(n_heads,) float64 each: sums over the queries of one document."""


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer attends."""
    for s in sublayers:
        attends = s.fusion is not None and s.fusion.cross is not None
        if attends or any(branch.role == "attention" for branch in s.branches):
            return None
    return "no layer attends"


def run(subject: Subject, tell: Tell) -> Finding:
    """Measure every head that attends."""
    about: dict[str, Row] = {}
    sums: dict[str, list[Sums]] = {}
    documents = subject.inputs.documents
    for done, document in enumerate(documents, start=1):
        for layer in subject.walk(document):
            for part in layer.parts:
                if (scores := part.scores()) is not None:
                    about[part.place] = part.about()
                    sums.setdefault(part.place, []).append(_sums(scores, layer.n_meta))
        tell(done, len(documents))
    heads = [about[at] | row for at, own in sums.items() for row in _head_rows(own)]
    whole = {
        name: [np.mean([_value(sums[at][d], name).mean() for at in sums]) for d in range(done)]
        for name in COLUMNS
    }
    units = {"distance": "tokens", "rest": "tokens", "span": "tokens", "entropy": "nats"}
    metrics = {
        name: over_documents(item, np.array(values)).as_metric(units.get(name, "share"))
        for name, values in whole.items()
        if name not in ("learned", "meta", "other") or any(values)
    }
    rows = [
        {"id": document.id, **{name: float(values[d]) for name, values in whole.items()}}
        for d, document in enumerate(documents)
    ]
    return Finding("distance", metrics, {"heads": heads}, rows)


def _sums(scores: Scores, n_meta: int) -> Sums:
    """Sums over the queries of a document's tokens."""
    n_tokens = scores.q.shape[1]
    places = np.linspace(n_meta, n_tokens - 1, min(N_QUERIES, n_tokens - n_meta)).round()
    queries = torch.from_numpy(places.astype(np.int64)).to(scores.q.device)
    found: dict[str, Tensor] = {}
    for block in weigh(scores, queries=queries):
        for name, value in _of_block(block, n_meta).items():
            found[name] = found.get(name, torch.zeros_like(value)) + value
    return {name: value.cpu().numpy() for name, value in found.items()}


def _of_block(block: Weighed, n_meta: int) -> dict[str, Tensor]:
    """Sums over the queries of one block, (n_heads,) fp64 each."""
    a, at = block.weights, block.keys - n_meta
    distances = block.distances.clamp_min(0)
    on_keys = a.sum(1, dtype=torch.float64)  # (n_heads, S)
    back = (a * distances).sum(1, dtype=torch.float64)
    in_document, is_rest = (at >= 0).double(), (at >= N_FIRST).double()
    spans = _spans(a * in_document.to(a.dtype) if n_meta else a, distances)
    sinks = block.sink.double()
    entropy = torch.special.entr(a).sum((1, 2), dtype=torch.float64)
    return {
        "distance": back @ in_document,
        "mass": on_keys @ in_document,
        "rest": back @ is_rest,
        "rest_mass": on_keys @ is_rest,
        "span": spans.nansum(1).double(),
        "n_spans": spans.isfinite().sum(1).double(),
        "entropy": entropy + torch.special.entr(sinks).sum(1),
        "first": on_keys @ (at == 0).double(),
        "four": on_keys @ (in_document - is_rest),
        "learned": sinks.sum(1),
        "meta": on_keys @ (1 - in_document),
        "other": on_keys @ (block.streams > 0).double(),
        "n": torch.full((len(a),), a.shape[1], dtype=torch.float64, device=a.device),
    }


def _spans(a: Tensor, distances: Tensor) -> Tensor:
    """(Hq, L): tokens back to which `MASS` of weights (Hq, L, S) lies; nan where there is none."""
    farther = a.cumsum(-1)  # keys are in order: the farthest come first
    total = farther[..., -1:].contiguous()
    spared = total * (1 - MASS) * (1 + 1e-5)
    last = torch.searchsorted(farther, spared, right=True).clamp_max(a.shape[-1] - 1)
    back = distances.expand_as(a).gather(-1, last)[..., 0] + 1.0
    return back.masked_fill(total[..., 0] < 1e-6, torch.nan)


def _value(sums: Sums, name: str) -> np.ndarray:
    """(n_heads,): what one document says of one column; 0 where there is no weight at all."""
    over = sums[_OVER.get(name, "n")]
    return sums[name] / np.where(over > 0, over, 1.0)


def _head_rows(own: Sequence[Sums]) -> list[Row]:
    """One row per head; every document counts the same."""
    values = {name: np.stack([_value(sums, name) for sums in own]) for name in COLUMNS}
    rows = []
    for head in range(values["distance"].shape[1]):
        row: Row = {"head": head, "n": len(own)}
        for name in COLUMNS:
            row |= cells(name, over_documents(item, values[name][:, head]))
        rows.append(row)
    return rows


INSTRUMENT = Instrument(
    name="attention-span",
    title="Where attention looks",
    unit="tokens",
    source="Vig and Belinkov 2019 (arXiv 1906.04284); Xiao et al. 2023 (arXiv 2309.17453)",
    why_not=why_not,
    run=run,
)
