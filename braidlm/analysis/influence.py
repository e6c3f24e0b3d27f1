"""How far back an output depends on the input: one ruler for every mixer, and for the whole model.

For the last token t of each document, with x what a mixer reads and u what it gives before any
output projection (in the whole model: embedded tokens, and hidden states behind the last norm)::

    I(d)  = || d u_t / d x_{t-d} ||_F
    share = sum of I(d)^2 over a bin of distances / sum of I(d)^2 over all
    half_distance: the d within which half of the sum of I(d)^2 over d >= 1 lies          tokens

I(d) is estimated by random vector-Jacobian products (`braidlm.analysis.jacobian`; how much of the
error is theirs is `probes_stderr`), and `nudged` by one random change of x_{t-start} as large as x
itself. A bin's I is the root of the mean square over its distances. An attention that borrows keys,
and the attention of a fusion, read other inputs than x and are left out; the whole model has them.

Long documents are sampled, for a probe costs as much as training on them: beyond 4,096 tokens there
are fewer probes (`n_probes_of`) and no nudges, and no more documents are looked at than have 32,768
tokens in all (at least two).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from braidlm.analysis.capture import Part
from braidlm.analysis.inputs import Document
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
from braidlm.analysis.jacobian import Causal, half_distance, squared_by_nudge, squared_by_probe
from braidlm.arch import Sublayer
from braidlm.data.seeding import key_of
from braidlm.mixers.keys import shares_keys
from braidlm.model import HybridLM

N_PROBES, LEAST_PROBES = 8, 2
LONG = 4096
"""Tokens beyond which a document is sampled."""
MODEL: Row = {"layer": -1, "place": "model", "letter": "", "kind": "model"}
ATTENDS = ("attention", "mla", "bmojo_f")


class Seen(NamedTuple):
    """What one document tells of one place."""

    by_bin: np.ndarray
    """(n_bins, 2): mean of I(d)^2, and its share."""
    probes: np.ndarray
    """(n_bins,): squared standard error of the mean over probes."""
    nudged: np.ndarray
    """(n_bins,): at each bin's first distance; empty for the whole model."""
    half: float


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer mixes tokens."""
    if any(branch.role != "channel" for s in sublayers for branch in s.branches):
        return None
    return "no layer mixes tokens"


def run(subject: Subject, tell: Tell) -> Finding:
    """Measure every mixer of tokens, and the model."""
    about: dict[str, Row] = {"model": MODEL}
    seen: dict[str, list[Seen]] = {"model": []}
    documents = sampled(subject.inputs.documents)
    for done, document in enumerate(documents, start=1):
        seed = key_of(document.id) % 2**31
        n, tokens = len(document.tokens), subject.tokens(document)
        with torch.no_grad():
            function, embedded = of_model(subject.model, tokens)
            seen["model"].append(_look(function, embedded, n, seed, nudges=False))
            for layer in subject.walk(document):
                for part in filter(is_measured, layer.parts):
                    about[part.place] = part.about()
                    found = _look(of_part(part), part.x, n, seed, nudges=n <= LONG)
                    seen.setdefault(part.place, []).append(found)
        tell(done, len(documents))
    tables = {
        "by_distance": [about[at] | row for at in seen for row in _bin_rows(seen[at])],
        "by_place": [about[at] | _place_row(seen[at]) for at in seen],
    }
    return Finding("half_distance", _metrics(about, seen), tables, _rows(documents, seen["model"]))


def sampled(documents: Sequence[Document]) -> Sequence[Document]:
    """Return the first documents: as many as have `N_PROBES` times `LONG` tokens, at least two."""
    longest = max(len(document.tokens) for document in documents)
    return documents[: max(2, N_PROBES * LONG // longest)] if longest > LONG else documents


def n_probes_of(n_tokens: int) -> int:
    """Return how many probes a document of so many tokens gets."""
    return max(LEAST_PROBES, min(N_PROBES, N_PROBES * LONG // n_tokens))


def is_measured(part: Part) -> bool:
    """Whether a part mixes tokens of its own input alone."""
    borrows = bool(getattr(part.module, "kv_from", ""))
    return part.kind not in ("mlp", "moe", "fusion") and not borrows


def of_part(part: Part) -> Causal:
    """Return what a mixer makes of its input (1, T, D) as a function."""
    module: Any = part.module
    keys = (dict(part.keys),) if shares_keys(module) else ()

    def function(x: Tensor) -> Tensor:
        if part.added is None:
            return module(x, None, None, False, *keys)[0]
        return module.projected(module.in_proj(x) + part.added, None, None, False, *keys)[0]

    return function


def of_model(model: HybridLM, tokens: Tensor) -> tuple[Causal, Tensor]:
    """Return the model as a function of embedded tokens, and those (1, T', d_model).

    Going back, a block is computed again: the activations of one block are held at a time.
    """
    stream, segments = model.begin(tokens, None)

    def function(x: Tensor) -> Tensor:
        now = stream._replace(hidden=x, embedding=x)
        for block in model.blocks:
            now, _ = checkpoint(block, now, segments, None, False, use_reentrant=False)
        return model.norm(now.hidden)

    return function, stream.embedding


def _look(function: Causal, x: Tensor, n_tokens: int, seed: int, *, nudges: bool) -> Seen:
    """Measure one map; meta tokens in front of the document are no distance."""
    generator = torch.Generator().manual_seed(seed)
    squares = squared_by_probe(function, x, n_probes_of(n_tokens), generator)[:, :n_tokens].numpy()
    edges = edges_of(n_tokens)
    counts = np.diff(edges)
    sums = np.add.reduceat(squares, edges[:-1], axis=1)
    means = sums.mean(0) / counts
    share = sums.mean(0) / max(float(sums.mean(0).sum()), 1e-300)
    error = np.zeros(len(counts))
    if len(squares) > 1:
        error = (sums / counts).var(0, ddof=1) / len(squares)
    nudged = np.empty(0)
    if nudges:
        nudged = squared_by_nudge(function, x, edges[:-1].tolist(), 1, generator)[0].numpy()
    half = half_distance(torch.from_numpy(squares.mean(0)))
    return Seen(np.stack((means, share), axis=1), error, nudged, half)


def edges_of(n_tokens: int) -> np.ndarray:
    """Return the edges of bins of distances: 0, 1, 2-3, 4-7, ... up to n_tokens - 1."""
    powers = [2**k for k in range((n_tokens - 1).bit_length())]
    return np.array([0, *powers, n_tokens])


def _bin_rows(seen: Sequence[Seen]) -> list[Row]:
    """One row per bin that every document reaches: they may differ in length."""
    n_bins = min(len(one.by_bin) for one in seen)
    n_bins -= len({one.by_bin.shape for one in seen}) > 1  # the last bin of the shortest is cut
    rows = []
    for b in range(n_bins):
        row: Row = {"start": 2 ** (b - 1) if b else 0, "end": 2**b}
        influence = over_documents(_root, [one.by_bin[b, :1] for one in seen])
        row |= cells("influence", influence)
        error = math.sqrt(sum(one.probes[b] for one in seen)) / len(seen)
        row["probes_stderr"] = error / (2 * influence.value) if influence.value else 0.0
        row |= cells("share", over_documents(item, [one.by_bin[b, 1:] for one in seen]))
        if len(seen[0].nudged):
            nudged = over_documents(_root, [one.nudged[b, None] for one in seen])
            row |= cells("nudged", nudged)
        rows.append(row | {"n": len(seen)})
    return rows


def _root(means: np.ndarray) -> float:
    return math.sqrt(means.item())


def _place_row(seen: Sequence[Seen]) -> Row:
    now = over_documents(item, [one.by_bin[0, 1:] for one in seen])
    return cells("half_distance", _half(seen)) | cells("share_now", now) | {"n": len(seen)}


def _half(seen: Sequence[Seen]) -> Any:
    known = [one.half for one in seen if math.isfinite(one.half)]
    return over_documents(item, np.array(known or [math.nan])[:, None])


def _metrics(about: dict[str, Row], seen: dict[str, list[Seen]]) -> dict[str, Any]:
    """The half distance of the model, and the means over all attentions and all recurrences."""
    found = {"half_distance": _half(seen["model"]).as_metric("tokens")}
    for role in ("attention", "recurrent"):
        kinds = [at for at in seen if at != "model" and _role(about[at]) == role]
        halves = [[one.half for one in seen[at]] for at in kinds]
        halves = [h for h in halves if all(map(math.isfinite, h))]
        if halves:
            mean = over_documents(item, np.mean(halves, axis=0)[:, None])
            found[f"{role}_half_distance"] = mean.as_metric("tokens")
    return found


def _role(about: Row) -> str:
    return "attention" if about["kind"] in ATTENDS else "recurrent"


def _rows(documents: Sequence[Document], seen: Sequence[Seen]) -> list[Row]:
    pairs = zip(documents, seen, strict=True)
    return [{"id": document.id, "half_distance": one.half} for document, one in pairs]


INSTRUMENT = Instrument(
    name="influence",
    title="How far back outputs depend on inputs, one ruler for all mixers",
    unit="tokens",
    source="Hutchinson 1989; Jacobian norms: Pascanu et al. 2013 (arXiv 1211.5063)",
    why_not=why_not,
    run=run,
    needs_grad=True,
)
