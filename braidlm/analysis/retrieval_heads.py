"""Heads that fetch the answer: found on one half of the prompts, cut on the other.

The right answer is given token by token. At each of its tokens w_j, which stands at place s_j of
the prompt, a head h gives its largest weight to some place, and the weight a_j to s_j itself::

    copy = share of tokens where h's largest weight is on s_j and the model says w_j
    mass = mean of a_j over all tokens of answers

Heads are ranked by copy, then by mass, over every second prompt from the first on. On the others
the top k are cut (their slices of the output are zeroed before the output projection), and as a
control k heads drawn at random from all others, several times. `drop` is what of the recall is lost
beyond that control, for the largest k of the table.

Every cut reads the prompts again: of prompts beyond 2,048 tokens there is one random draw for each
k, and no more prompts are looked at than have 65,536 tokens in all (at least four).

Source: Wu et al. 2024 (arXiv 2404.15574), retrieval heads: the copy score, cuts and random cuts.
    `mass` tells heads apart that are never first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from braidlm.analysis.capture import Part
from braidlm.analysis.cuts import heads_cut
from braidlm.analysis.inputs import Asked, Document
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
from braidlm.analysis.weights import weigh
from braidlm.arch import Sublayer
from braidlm.data.seeding import EVAL, generator
from braidlm.errors import InputError
from braidlm.generate.mode import precise_logits
from braidlm.tasks.stats import known

N_DRAWS = 5
"""Of random heads for each k; one where prompts are longer than `LONG`."""
LONG, N_TOKENS, LEAST = 2048, 2**16, 4
MOST_CUT = 64
"""The largest k at most: half of the heads."""

Head = tuple[str, int]
"""Place and number."""


class Step(NamedTuple):
    """One token of a right answer."""

    query: int
    """Where it must be said."""
    source: int
    """Where it stands in the prompt."""
    token: int


class Prompt(NamedTuple):
    """A prompt with its answers: those that stand behind the last question are appended."""

    document: Document
    answers: list[list[Step]]


class Given(NamedTuple):
    """What a model says of a prompt's answers."""

    accuracy: float
    """Share of answers whose every token has the largest logit."""
    nll: float
    """Mean over answers of their loss, nats."""
    hits: list[bool]
    """Of every step."""


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer attends."""
    if any(branch.role == "attention" for s in sublayers for branch in s.branches):
        return None
    return "no layer attends"


def run(subject: Subject, tell: Tell) -> Finding:
    """Score heads on one half of the prompts and cut them on the other."""
    documents, n_draws = sampled(subject.inputs.documents)
    prompts = [forced(document) for document in documents]
    if len(prompts) < 2:
        raise InputError("retrieval-heads needs 2 prompts: one half finds heads, the other cuts")
    found, test = prompts[0::2], prompts[1::2]
    about: dict[str, Row] = {}
    scores: dict[str, list[np.ndarray]] = {}
    n_rounds = len(found) + len(test)
    for done, prompt in enumerate(found, start=1):
        hits = said(subject.model, prompt).hits
        for layer in subject.walk(prompt.document):
            for part in filter(is_scored, layer.parts):
                about[part.place] = part.about()
                one = _scores(part, prompt, hits, layer.n_meta)
                scores.setdefault(part.place, []).append(one)
        tell(done, n_rounds)
    ranked = ranking(scores)
    cuts = cuts_of(ranked, n_draws)
    given = []
    for done, prompt in enumerate(test, start=len(found) + 1):
        given.append([_cut(subject, prompt, heads) for _, _, heads in cuts])
        tell(done, n_rounds)
    table = _cut_rows(cuts, given)
    heads = [about[at] | _head_row(scores[at], h, r) for r, (at, h) in enumerate(ranked, 1)]
    pairs = zip(test, given, strict=True)
    rows = [{"id": p.document.id, "accuracy": g[0].accuracy} for p, g in pairs]
    return Finding("drop", _metrics(cuts, given), {"heads": heads, "cuts": table}, rows)


def sampled(documents: Sequence[Document]) -> tuple[Sequence[Document], int]:
    """Return the prompts that are looked at, and the random draws for each k."""
    longest = max(len(document.tokens) for document in documents)
    if longest <= LONG:
        return documents, N_DRAWS
    return documents[: max(LEAST, N_TOKENS // longest)], 1


def is_scored(part: Part) -> bool:
    """Whether a part has heads that attend, and that can be cut."""
    return part.kind != "fusion" and part.scores() is not None


def forced(document: Document) -> Prompt:
    """Return a prompt that goes on with its last answer, but for that answer's last token."""
    tokens, last = document.tokens, document.asked[-1]
    if last.query == len(tokens) - 1:
        tokens = np.concatenate((tokens, np.array(last.answer[:-1], dtype=np.int64)))
    answers = [_steps(asked, tokens) for asked in document.asked]
    return Prompt(document._replace(tokens=tokens), answers)


def _steps(asked: Asked, tokens: np.ndarray) -> list[Step]:
    """An answer's tokens, as far as the prompt gives those before them."""
    found = []
    for j, token in enumerate(asked.answer):
        query = asked.query + j
        if query >= len(tokens) or (j and tokens[query] != asked.answer[j - 1]):
            break
        found.append(Step(query, asked.source[0] + j, token))
    return found


def said(model: Any, prompt: Prompt) -> Given:
    """Return what a model says of the answers, each token given those before it."""
    steps = [step for answer in prompt.answers for step in answer]
    device = next(model.parameters()).device
    tokens = torch.from_numpy(prompt.document.tokens)[None].to(device)
    where = torch.tensor([step.query for step in steps], device=device)
    hidden = model(tokens, return_state=False).hidden[0, where]
    logits = precise_logits(model, hidden)
    wanted = torch.tensor([step.token for step in steps], device=device)
    nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double().tolist()
    hits = (logits.argmax(-1) == wanted).tolist()
    ends = np.cumsum([len(answer) for answer in prompt.answers])[:-1]
    whole = [all(part) for part in np.split(np.array(hits), ends)]
    return Given(float(np.mean(whole)), sum(nll) / len(prompt.answers), hits)


def _scores(part: Part, prompt: Prompt, hits: Sequence[bool], n_meta: int) -> np.ndarray:
    """(H, 2): copy and mass of every head in one prompt."""
    scores = part.scores()
    assert scores is not None
    steps = [step for answer in prompt.answers for step in answer]
    order = sorted(range(len(steps)), key=lambda i: steps[i].query)
    device = scores.q.device
    queries = torch.tensor([steps[i].query + n_meta for i in order], device=device)
    found, at = np.zeros((scores.q.shape[2], 2)), 0
    for block in weigh(scores, queries=queries):
        for row in range(len(block.queries)):
            step, is_said = steps[order[at]], hits[order[at]]
            mass, is_first = _looked(block.weights[:, row], block.keys, step.source + n_meta)
            found += np.stack((is_first & is_said, mass), axis=1)
            at += 1
    return found / len(steps)


def _looked(weights: Tensor, keys: Tensor, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (H,) on a token, and whether it is the largest, of weights (H, S) over keys (S,)."""
    mass = weights[:, keys == source].sum(1)
    is_first = keys[weights.argmax(1)] == source
    return mass.double().cpu().numpy(), is_first.cpu().numpy()


def ranking(scores: Mapping[str, Sequence[np.ndarray]]) -> list[Head]:
    """Return every head, best first: by copy, then by mass, then in the order of the layers."""
    means = {at: np.mean(own, axis=0) for at, own in scores.items()}
    heads = [(at, head) for at, own in means.items() for head in range(len(own))]
    return sorted(heads, key=lambda h: tuple(-means[h[0]][h[1]]))


def cuts_of(ranked: Sequence[Head], n_draws: int = N_DRAWS) -> list[tuple[str, int, list[Head]]]:
    """Return what is cut: "none", then for k = 1, 2, 4, ... "top" and `n_draws` times "random".

    Random heads are drawn from those that are not among the top k, so that k is at most half.
    """
    cuts: list[tuple[str, int, list[Head]]] = [("none", 0, [])]
    k = 1
    while k <= min(len(ranked) // 2, MOST_CUT):
        cuts.append(("top", k, list(ranked[:k])))
        rest = ranked[k:]
        for draw in range(n_draws):
            chosen = generator(0, EVAL, "heads", k, draw).choice(len(rest), size=k, replace=False)
            cuts.append(("random", k, [rest[i] for i in sorted(chosen.tolist())]))
        k *= 2
    return cuts


def _cut(subject: Subject, prompt: Prompt, heads: Sequence[Head]) -> Given:
    by_place: dict[str, list[int]] = {}
    for place, head in heads:
        by_place.setdefault(place, []).append(head)
    with heads_cut(subject.model, by_place):
        return said(subject.model, prompt)


def _groups(cuts: Sequence[tuple[str, int, list[Head]]]) -> Iterator[tuple[str, int, list[int]]]:
    """Yield the columns of each kind and k: one, or one per draw."""
    for kind, k in dict.fromkeys((kind, k) for kind, k, _ in cuts):
        yield kind, k, [i for i, (a, b, _) in enumerate(cuts) if (a, b) == (kind, k)]


def _cut_rows(
    cuts: Sequence[tuple[str, int, list[Head]]], given: Sequence[Sequence[Given]]
) -> list[Row]:
    """Recall that is left; errors are over prompts, and `spread` is the deviation of the draws."""
    table = []
    for kind, k, columns in _groups(cuts):
        row: Row = {"cut": kind, "k": k}
        for name in ("accuracy", "nll"):
            values = np.array([[getattr(g[i], name) for i in columns] for g in given])
            row |= cells(name, over_documents(item, values.mean(1, keepdims=True)))
            if len(columns) > 1:
                row[f"{name}_spread"] = known(values.mean(0).std(ddof=1))
        table.append(row | {"n_draws": len(columns), "n": len(given)})
    return table


def _head_row(scores: Sequence[np.ndarray], head: int, rank: int) -> Row:
    row: Row = {"head": head, "rank": rank}
    for column, name in enumerate(("copy", "mass")):
        row |= cells(name, over_documents(item, [one[head, column, None] for one in scores]))
    return row | {"n": len(scores)}


def _metrics(
    cuts: Sequence[tuple[str, int, list[Head]]], given: Sequence[Sequence[Given]]
) -> dict[str, Any]:
    """Accuracy before, with the largest top k cut, with as many random ones, and their gap."""
    columns = {(kind, k): own for kind, k, own in _groups(cuts)}
    k = max(k for _, k in columns)
    accuracy = np.array([[g.accuracy for g in row] for row in given])
    before, top = accuracy[:, columns["none", 0]], accuracy[:, columns.get(("top", k), [0])]
    others = accuracy[:, columns.get(("random", k), [0])].mean(1, keepdims=True)
    parts = {"before": before, "top_cut": top, "random_cut": others, "drop": others - top}
    return {name: over_documents(item, values).as_metric("share") for name, values in parts.items()}


INSTRUMENT = Instrument(
    name="retrieval-heads",
    title="Heads that fetch the answer, and recall without them",
    unit="share",
    source="Wu et al. 2024 (arXiv 2404.15574)",
    why_not=why_not,
    run=run,
    needs="recall",
)
