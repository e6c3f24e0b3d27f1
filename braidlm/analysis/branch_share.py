"""How much each branch of a parallel sublayer says, and on which kinds of tokens.

With v_i the output of branch i after its norm and scale, and y the sublayer's output::

    rms    = sqrt(mean over tokens and channels of v_i^2)
    lost_i = y - (y without v_i)                               W_i v_i where outputs are added
    share  = rms(lost_i) / sum_j rms(lost_j)
    cosine = mean over tokens of cos(lost_i, lost_j)
    gate   = mean of the fusion's own gate, as far as it lets branch i through
    weight = share of a merge attention's weight that lies on the keys of branch i
    self   = weight that the attention of a fusion (cross or merge) gives to the token that asks
    reach  = mean distance of its weight on tokens of the document                         tokens

Each of them over all tokens, and over the tokens of one kind (`token_kinds`). A *contrast* is the
share on one kind of tokens minus the share on all others of the same document, mean over the
sublayers with the same branches.

Source: Bae et al. 2025 (arXiv 2510.04800), routing probe; kinds of tokens are by their text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.analysis.capture import Layer
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
from braidlm.analysis.token_kinds import KINDS, token_kinds
from braidlm.analysis.weights import weigh
from braidlm.arch import Sublayer
from braidlm.combine import Gated
from braidlm.parallel import Parallel

ALL = "all"

Values = dict[str, np.ndarray]
"""(n_branches or n_pairs, T) each: one number per token of a document."""


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer has branches."""
    if any(s.is_parallel for s in sublayers):
        return None
    return "no layer has parallel branches"


def run(subject: Subject, tell: Tell) -> Finding:
    """Measure every parallel sublayer."""
    layers: dict[int, Sublayer] = {}
    seen: dict[int, list[Values]] = {}
    chosen: list[dict[str, np.ndarray]] = []
    documents = subject.inputs.documents
    for done, document in enumerate(documents, start=1):
        chosen.append(_chosen(subject, document.tokens))
        for layer in subject.walk(document):
            if layer.parallel is not None:
                layers[layer.index] = layer.sublayer
                seen.setdefault(layer.index, []).append(_values(layer, layer.parallel))
        tell(done, len(documents))
    branches = [row for i in seen for row in _branch_rows(layers[i], seen[i], chosen)]
    pairs = [row for i in seen for row in _pair_rows(layers[i], seen[i], chosen)]
    fusions = [row for i in seen for row in _fusion_rows(layers[i], seen[i], chosen)]
    contrasts = list(_contrast_rows(layers, seen, chosen))
    squares = [np.stack([seen[i][d]["lost"].mean(1) for i in seen]) for d in range(done)]
    cosines = np.array([[seen[i][d]["cosine"].mean() for i in seen] for d in range(done)])
    metrics = {
        "first_share": over_documents(_mean_share(0), squares).as_metric("share"),
        "cosine": over_documents(item, cosines.mean(1)).as_metric("cosine"),
    }
    rows = [
        {"id": document.id, "first_share": _mean_share(0)(squares[d]), "cosine": cosines[d].mean()}
        for d, document in enumerate(documents)
    ]
    tables = {"branches": branches, "pairs": pairs, "fusions": fusions, "contrasts": contrasts}
    return Finding("first_share", metrics, tables, rows)


def _chosen(subject: Subject, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """For each kind of tokens, and for all, whether each token is of it: (T,) bool."""
    found = {ALL: np.ones(len(tokens), dtype=bool)}
    if subject.inputs.tokenizer is None:
        return found
    kinds = np.array(token_kinds(tokens, subject.inputs.tokenizer))
    return found | {kind: kinds == kind for kind in KINDS}


def _values(layer: Layer, parallel: Parallel) -> Values:
    """What every token of a document tells: mean squares, cosines, gates, weights."""
    v, at = layer.voices.v, slice(layer.n_meta, None)
    lost = [y[0, at].double() for y in parallel.lost(v, layer.x, layer.segments)]
    found = {
        "voice": torch.stack([u[0, at].double().square().mean(-1) for u in v]),
        "lost": torch.stack([y.square().mean(-1) for y in lost]),
        "cosine": torch.stack([F.cosine_similarity(a, b, -1) for a, b in combinations(lost, 2)]),
    }
    if isinstance(parallel.combine, Gated):
        gate = parallel.combine.gate(layer.x)[0, at].double().mean(-1)
        found["gate"] = torch.stack((gate, 1 - gate))
    found |= {name: value[:, at] for name, value in _fusion_weights(layer).items()}
    return {name: value.cpu().numpy() for name, value in found.items()}


def _fusion_weights(layer: Layer) -> dict[str, Tensor]:
    """What a fusion's attention gives to each stream, to the asking token, and how far it looks.

    weight (2, T') where it has two streams; sight (2, T'): self and reach. {} without one.
    """
    part = layer.parts[-1]
    scores = part.scores() if part.heard else None
    if scores is None:
        return {}
    streams, sight = [], []
    for b in weigh(scores):
        a, back = b.weights, b.distances
        inside = a * (b.keys >= layer.n_meta)
        reach = (inside * back).sum(-1) / inside.sum(-1).clamp_min(1e-9)
        sight.append(torch.stack(((a * (back == 0)).sum(-1).mean(0), reach.mean(0))))
        streams.append(torch.stack([(a * (b.streams == i)).sum(-1).mean(0) for i in range(2)]))
    found = {"sight": torch.cat(sight, dim=1)}
    return found | ({"weight": torch.cat(streams, dim=1)} if len(scores.spans) > 1 else {})


def _of_kind(
    documents: Sequence[Values], name: str, chosen: Sequence[dict[str, np.ndarray]], kind: str
) -> list[np.ndarray]:
    """Means over the tokens of a kind, (n_branches,) of each document that has such tokens."""
    pairs = zip(documents, chosen, strict=True)
    return [d[name][:, c[kind]].mean(1) for d, c in pairs if kind in c and c[kind].any()]


def _branch_rows(
    s: Sublayer, documents: Sequence[Values], chosen: Sequence[dict[str, np.ndarray]]
) -> Iterator[Row]:
    """One row per branch and kind of tokens."""
    for kind in chosen[0]:
        lost = _of_kind(documents, "lost", chosen, kind)
        if not lost:
            continue
        for i, (letter, config) in enumerate(zip(s.letters, s.branches, strict=True)):
            row: Row = {"layer": s.index, "place": f"{s.index}.{i}", "letter": letter}
            row |= {"kind": config.kind, "branch": i, "tokens": kind}  # pyright: ignore
            row |= {"n_tokens": int(sum(c[kind].sum() for c in chosen)), "n": len(lost)}
            voices = _of_kind(documents, "voice", chosen, kind)
            row |= cells("rms", over_documents(_root(i), voices))
            row |= cells("share", over_documents(_share(i), lost))
            for name in ("gate", "weight"):
                if name in documents[0]:
                    values = _of_kind(documents, name, chosen, kind)
                    row |= cells(name, over_documents(_entry(i), values))
            yield row


def _pair_rows(
    s: Sublayer, documents: Sequence[Values], chosen: Sequence[dict[str, np.ndarray]]
) -> Iterator[Row]:
    """One row per pair of branches and kind of tokens."""
    pairs = list(combinations(range(len(s.branches)), 2))
    for kind in chosen[0]:
        values = _of_kind(documents, "cosine", chosen, kind)
        for p, (i, j) in enumerate(pairs if values else []):
            row: Row = {"layer": s.index, "place": str(s.index), "letter": s.symbol}
            row |= {"kind": "parallel", "branches": f"{i},{j}", "tokens": kind, "n": len(values)}
            yield row | cells("cosine", over_documents(_entry(p), values))


def _fusion_rows(
    s: Sublayer, documents: Sequence[Values], chosen: Sequence[dict[str, np.ndarray]]
) -> Iterator[Row]:
    """One row per kind of tokens that ask, where the fusion attends."""
    for kind in chosen[0] if "sight" in documents[0] else ():
        if values := _of_kind(documents, "sight", chosen, kind):
            row: Row = {"layer": s.index, "place": f"{s.index}.fusion", "letter": s.symbol}
            row |= {"kind": "fusion", "tokens": kind, "n": len(values)}
            row |= cells("self", over_documents(_entry(0), values))
            yield row | cells("reach", over_documents(_entry(1), values))


def _contrast_rows(
    layers: dict[int, Sublayer],
    seen: dict[int, list[Values]],
    chosen: Sequence[dict[str, np.ndarray]],
) -> Iterator[Row]:
    """One row per sort of sublayer, branch and kind of tokens."""
    for symbol in dict.fromkeys(s.symbol for s in layers.values()):
        alike = [i for i, s in layers.items() if s.symbol == symbol]
        s = layers[alike[0]]
        for kind in KINDS:
            both = [d for d, c in enumerate(chosen) if kind in c and 0 < c[kind].mean() < 1]
            if not both:
                continue
            squares = [_sides([seen[i][d]["lost"] for i in alike], chosen[d][kind]) for d in both]
            for b, (letter, config) in enumerate(zip(s.letters, s.branches, strict=True)):
                row: Row = {"symbol": symbol, "letter": letter, "branch": b, "tokens": kind}
                row |= {"kind": config.kind, "layers": alike, "n": len(both)}  # pyright: ignore
                yield row | cells("contrast", over_documents(_contrast(b), squares))


def _sides(lost: Sequence[np.ndarray], is_kind: np.ndarray) -> np.ndarray:
    """(2, n_layers, n_branches): mean squares on the tokens of a kind, and on all others."""
    return np.stack([[y[:, is_kind].mean(1) for y in lost], [y[:, ~is_kind].mean(1) for y in lost]])


def _root(i: int) -> Callable[[np.ndarray], float]:
    return lambda squares: float(np.sqrt(squares[i]))


def _entry(i: int) -> Callable[[np.ndarray], float]:
    return lambda values: float(values[i])


def _share(i: int) -> Callable[[np.ndarray], float]:
    """Of mean squares (n_branches,)."""
    return lambda squares: float(_shares(squares)[i])


def _mean_share(i: int) -> Callable[[np.ndarray], float]:
    """Mean over layers, of mean squares (n_layers, n_branches)."""
    return lambda squares: float(np.mean([_shares(layer)[i] for layer in squares]))


def _contrast(i: int) -> Callable[[np.ndarray], float]:
    """Of what `_sides` gives."""
    return lambda sides: _mean_share(i)(sides[0]) - _mean_share(i)(sides[1])


def _shares(squares: np.ndarray) -> np.ndarray:
    """Roots of mean squares (n_branches,) over their sum; even where nothing is said."""
    roots = np.sqrt(squares)
    total = roots.sum()
    return roots / total if total else np.full(len(roots), 1 / len(roots))


INSTRUMENT = Instrument(
    name="branch-share",
    title="What each branch of a parallel layer says",
    unit="share",
    source="Bae et al. 2025 (arXiv 2510.04800), routing probe",
    why_not=why_not,
    run=run,
)
