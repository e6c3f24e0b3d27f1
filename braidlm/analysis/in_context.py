"""What a context teaches: recall by the number of worked examples, loss by position in text.

Of a recall task, the same questions are asked after k = 0, 1, 2, 4, ... worked examples. Where a
prompt asks several questions, examples are its own other questions with their answers:

    k1 v4 k2 v9 k3 v5 | k3 v5 | k1 v4 | k2 ->       two examples, the answer is v9

and otherwise other prompts with their answers, in front of it. `gain` is the accuracy after the
most examples that any prompt takes, less that of the same prompts without one (share). Of text::

    gain = loss of tokens T/16 .. T/8 - loss of tokens T/2 .. T                            nats

Many examples make a longer context than the task's own; it may be longer than what was trained.

Source: Brown et al. 2020 (arXiv 2005.14165), few-shot prompts; Olsson et al. 2022 (arXiv
    2209.11895), the difference of losses late and early in the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from braidlm.analysis.inputs import Asked, Document, Inputs
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
from braidlm.analysis.retrieval_heads import forced, said
from braidlm.analysis.twins import cue_length
from braidlm.arch import Sublayer
from braidlm.data.seeding import EVAL, generator
from braidlm.errors import InputError
from braidlm.tasks.scoring import score
from braidlm.tasks.stats import ratio, share

SHOTS = (0, 1, 2, 4, 8, 16)


class Shot(NamedTuple):
    """What a model says of one question after some examples."""

    accuracy: float
    nll: float
    """-log P of the whole answer in nats."""
    tokens: int
    """Of the whole prompt."""


Shots = dict[int, Shot]
"""By the number of examples; of one document."""


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Every language model has a loss."""
    return None


def run(subject: Subject, tell: Tell) -> Finding:
    """Ask after k examples, or score text by position."""
    return _recall(subject, tell) if subject.inputs.kind == "recall" else _text(subject, tell)


def _recall(subject: Subject, tell: Tell) -> Finding:
    documents = subject.inputs.documents
    if len(documents) < 2 and len(documents[0].asked) < 2:
        raise InputError("in-context needs 2 prompts, or one with 2 questions: others are examples")
    found: list[Shots] = []
    for number in range(len(documents)):
        prompts = {k: after_examples(subject.inputs, number, k) for k in SHOTS}
        found.append({k: _shot(subject, p) for k, p in prompts.items() if p is not None})
        tell(number + 1, len(documents))
    table = []
    for k in SHOTS:
        if reached := [shots for shots in found if k in shots]:
            table.append(_shot_row(k, reached))
    last = table[-1]["shots"]
    most = [shots for shots in found if last in shots]
    accuracy = {k: over_documents(item, _of(own, k)) for k, own in ((0, found), (last, most))}
    metrics = {
        "gain": over_documents(item, _of(most, last) - _of(most, 0)).as_metric("share"),
        "accuracy": share(accuracy[0]).as_metric("share"),
        f"accuracy_{last}": share(accuracy[last]).as_metric("share"),
    }
    rows = [
        {"id": document.id, **{f"accuracy_{k}": shot.accuracy for k, shot in shots.items()}}
        for document, shots in zip(documents, found, strict=True)
    ]
    return Finding("gain", metrics, {"by_shots": table}, rows)


def _shot(subject: Subject, prompt: Document) -> Shot:
    given = said(subject.model, forced(prompt))
    return Shot(given.accuracy, given.nll, len(prompt.tokens))


def _of(found: Sequence[Shots], k: int, name: str = "accuracy") -> np.ndarray:
    return np.array([[getattr(shots[k], name)] for shots in found])


def _shot_row(k: int, found: Sequence[Shots]) -> Row:
    """One number of examples; a gain is over the same prompts without any."""
    row: Row = {"shots": k, "tokens": float(_of(found, k, "tokens").mean())}
    row |= cells("accuracy", share(over_documents(item, _of(found, k))))
    row |= cells("nll", over_documents(item, _of(found, k, "nll")))
    for name in ("accuracy", "nll"):
        gained = _of(found, k, name) - _of(found, 0, name)
        row |= cells(f"{name}_gain", over_documents(item, gained))
    return row | {"n": len(found)}


def after_examples(inputs: Inputs, number: int, k: int) -> Document | None:
    """Return a prompt with one question after k worked examples; None where there are not so many.

    Raises:
        InputError: a prompt that asks nothing.
    """
    document = inputs.documents[number]
    if not document.asked:
        raise InputError(f"document '{document.id}' asks nothing: in-context needs its questions")
    rng = generator(0, EVAL, "in-context", number)
    if len(document.asked) > 1:
        return _own_examples(document, k, rng)
    return _other_prompts(inputs, number, k, rng)


def _own_examples(document: Document, k: int, rng: np.random.Generator) -> Document | None:
    """The prompt up to its first question, k of its questions with answers, and one without."""
    order = rng.permutation(len(document.asked))
    if k >= len(order):
        return None
    asked = document.asked[order[0]]
    begin = min(one.query + 1 - _cue(document, one) for one in document.asked)
    parts = [document.tokens[:begin]]
    for i in order[k:0:-1]:
        one = document.asked[i]
        parts += [_question(document, one), np.array(one.answer)]
    tokens = np.concatenate([*parts, _question(document, asked)])
    return Document(document.id, tokens, (asked._replace(query=len(tokens) - 1),))


def _question(document: Document, asked: Asked) -> np.ndarray:
    end = asked.query + 1
    return document.tokens[end - _cue(document, asked) : end]


def _cue(document: Document, asked: Asked) -> int:
    return cue_length(document.tokens, asked.source[0], asked.query + 1)


def _other_prompts(
    inputs: Inputs, number: int, k: int, rng: np.random.Generator
) -> Document | None:
    """k other prompts with their answers, then the prompt; only the first opens with bos."""
    documents = inputs.documents
    others = [i for i in rng.permutation(len(documents)).tolist() if i != number]
    if k > len(others):
        return None
    bos = None if inputs.tokenizer is None else inputs.tokenizer.bos_id
    parts: list[np.ndarray] = []
    for i in [*reversed(others[:k]), number]:
        tokens = documents[i].tokens
        parts.append(tokens[1:] if parts and tokens[0] == bos else tokens)
        parts.append(np.array(documents[i].asked[-1].answer, dtype=np.int64))
    (asked,), moved = documents[number].asked, sum(map(len, parts[:-2]))
    moved -= len(documents[number].tokens) - len(parts[-2])
    first, stop = asked.source
    whole = asked._replace(query=asked.query + moved, source=(first + moved, stop + moved))
    return Document(documents[number].id, np.concatenate(parts[:-1]), (whole,))


def _text(subject: Subject, tell: Tell) -> Finding:
    documents, found = subject.inputs.documents, []
    for done, document in enumerate(documents, start=1):
        found += score(subject.model, [document.tokens], len(document.tokens))
        tell(done, len(documents))
    shortest = min(map(len, found))
    edges = [2**k for k in range(shortest.bit_length()) if 2**k < shortest] + [shortest]
    table = []
    for start, end in zip([0, *edges[:-1]], edges, strict=True):
        sums, n = [loss[start:end].sum() for loss in found], end - start
        row = {"start": start, "end": end} | cells("loss", ratio(sums, [n] * len(found)))
        table.append(row | {"n": len(found)})
    gains = np.array([[_gain(loss[:shortest])] for loss in found])
    metrics: dict[str, Any] = {
        "gain": over_documents(item, gains).as_metric("nats"),
        "loss": over_documents(item, np.array([[x.mean()] for x in found])).as_metric("nats"),
    }
    pairs = zip(documents, gains[:, 0].tolist(), strict=True)
    rows = [{"id": document.id, "gain": gain} for document, gain in pairs]
    return Finding("gain", metrics, {"by_position": table}, rows)


def _gain(loss: np.ndarray) -> float:
    """Early less late loss, see the formula above."""
    n = len(loss)
    return float(loss[n // 16 : max(n // 8, n // 16 + 1)].mean() - loss[n // 2 :].mean())


INSTRUMENT = Instrument(
    name="in-context",
    title="What a context teaches: accuracy by worked examples, loss by position",
    unit="share of answers; of text, nats",
    source="Brown et al. 2020 (arXiv 2005.14165); Olsson et al. 2022 (arXiv 2209.11895)",
    why_not=why_not,
    run=run,
)
