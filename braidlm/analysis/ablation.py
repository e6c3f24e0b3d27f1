"""What fails when something is taken out: memories, far sight, layers, branches.

Secondary to `surgery`: a cut model is one that no training has made, and what fails then need not
be what carried the answer before. Each cut stands beside a *control*, a random change that is as
large: the memory's vectors are replaced by random ones of the same lengths, or the outputs of the
layers that the cut touches are moved as far at every token, in a random direction::

    drop    after the prompt its KV caches, its recurrent states, or both hold nothing
    hide    no attention sees tokens that are w or more behind
    skip    a sublayer adds nothing to the stream
    zero    a branch of a parallel sublayer gives zeros, before the fusion
    harm    = -ln P with the cut + ln P without                                            nats

P is of the answer to one question of a recall prompt, all its tokens; of text, it is the mean over
the tokens of the document's second half, and memories are dropped in its middle.

Every cut and every control reads the documents again, so that long ones are sampled: two of those
beyond 2,048 tokens, texts cut to their first 2,048; of prompts, that cannot be cut, sight is hidden
at every other window, and layers are skipped only where they are named.

Source: zeroing and skipping: Meyes et al. 2019 (arXiv 1901.08644), Gromov et al. 2024 (arXiv
    2403.17887); controls of the same size are our own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from braidlm.analysis.cuts import branches_cut, jolted, layers_skipped, sees_far, sight_limited
from braidlm.analysis.inputs import Document, Inputs
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
from braidlm.analysis.memories import KINDS, Memory, emptied, memories, scrambled
from braidlm.analysis.twins import cue_length
from braidlm.arch import Sublayer
from braidlm.data.seeding import EVAL, generator, key_of
from braidlm.errors import InputError
from braidlm.generate.mode import device_of, precise_logits
from braidlm.model import HybridLM
from braidlm.tasks.stats import Estimate

LOGITS_AT_ONCE = 256
"""Places whose logits are held together."""
LONG, N_LONG = 2048, 2
"""Tokens beyond which documents are sampled, and how many of these are looked at."""


class Trial(NamedTuple):
    """What is read, and which of its tokens must be said."""

    id: str
    prompt: Tensor
    """(1, n): what memories hold when they are dropped."""
    rest: Tensor
    """(1, m), m at least 2: read after it."""
    n_said: int
    """The last so many tokens of `rest` are scored, at most m - 1."""
    is_answer: bool
    """Whether these are one answer, or tokens each for itself."""


class Cut(NamedTuple):
    """One way of taking something out of a model while it reads."""

    about: Row
    """Columns of its row: cut, what, and of a layer or branch where it is."""
    layers: Sequence[int]
    """Sublayers whose outputs it changes by itself."""
    on: Callable[[], contextlib.AbstractContextManager[None]]


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Something can be taken out of every model."""
    return None


def run(subject: Subject, tell: Tell) -> Finding:
    """Score every document without a cut, and with each cut and its control."""
    model, inputs = subject.model, sampled(subject.inputs)
    trials = [trial_of(inputs, number) for number in range(len(inputs.documents))]
    cuts = cuts_of(subject, max(trial.prompt.shape[1] + trial.rest.shape[1] for trial in trials))
    clean: list[float] = []
    drops: dict[str, list[tuple[float, float]]] = {}
    others: list[list[tuple[float, float]]] = [[] for _ in cuts]
    for done, trial in enumerate(trials, start=1):
        trial = trial._replace(
            prompt=trial.prompt.to(device_of(model)), rest=trial.rest.to(device_of(model))
        )
        clean.append(loss(model, trial))
        for name, pair in _dropped(model, trial).items():
            drops.setdefault(name, []).append(pair)
        for own, cut in zip(others, cuts, strict=True):
            own.append(_both(model, trial, cut))
        tell(done, len(trials))
    abouts = [{"cut": "drop", "what": name} for name in drops] + [cut.about for cut in cuts]
    pairs = [np.array(own) - np.array(clean)[:, None] for own in (*drops.values(), *others)]
    table = [about | _row(own) for about, own in zip(abouts, pairs, strict=True)]
    unit = "nats per answer" if trials[0].is_answer else "nats per token"
    metrics = {"loss": over_documents(item, np.array(clean)[:, None]).as_metric(unit)}
    for name, own in zip(drops, pairs, strict=False):
        metrics[f"drop_{name}"] = _mean(own[:, 0]).as_metric(unit)
        metrics[f"drop_{name}_control"] = _mean(own[:, 1]).as_metric(unit)
    rows = [{"id": t.id, "loss": value} for t, value in zip(trials, clean, strict=True)]
    return Finding("loss", metrics, {"cuts": table}, rows)


def sampled(inputs: Inputs) -> Inputs:
    """Return what is read of long documents, see the top of this file."""
    if max(len(document.tokens) for document in inputs.documents) <= LONG:
        return inputs
    most = LONG if inputs.kind == "text" else None
    documents = [d._replace(tokens=d.tokens[:most]) for d in inputs.documents[:N_LONG]]
    return dataclasses.replace(inputs, documents=documents)


def trial_of(inputs: Inputs, number: int) -> Trial:
    """Return one question of a recall prompt at random, or a text in two halves.

    Raises:
        InputError: a text of fewer than 4 tokens, or a prompt that asks nothing.
    """
    document = inputs.documents[number]
    if inputs.kind == "recall":
        return _question(document, number)
    middle = len(document.tokens) // 2
    if middle < 2:
        raise InputError(f"document '{document.id}' has fewer than 4 tokens: ablation halves it")
    prompt, rest = np.split(document.tokens, [middle])
    return Trial(document.id, _row_of(prompt), _row_of(rest), len(rest) - 1, False)


def _question(document: Document, number: int) -> Trial:
    if not document.asked:
        raise InputError(f"document '{document.id}' asks nothing: ablation needs its questions")
    rng = generator(0, EVAL, "ablation", number)
    asked = document.asked[rng.integers(len(document.asked))]
    end = asked.query + 1
    start = end - cue_length(document.tokens, asked.source[0], end)
    rest = np.concatenate((document.tokens[start:end], np.array(asked.answer, dtype=np.int64)))
    prompt = _row_of(document.tokens[:start])
    return Trial(document.id, prompt, _row_of(rest), len(asked.answer), True)


def _row_of(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(tokens)[None]


def cuts_of(subject: Subject, longest: int) -> list[Cut]:
    """Return every cut but the dropped memories, for documents of so many tokens at most."""
    model, layers = subject.model, subject.layers
    base, every = (16, ()) if longest > LONG else (4, range(model.spec.n_layers))
    sublayers = [model.spec.sublayers[i] for i in sorted(every if layers is None else layers)]
    cuts = []
    if far := sees_far(model):
        for window in (base**k for k in range((longest - 1).bit_length()) if base**k < longest):
            about: Row = {"cut": "hide", "what": f"{window} tokens", "window": window}
            cuts.append(Cut(about, far, lambda w=window: sight_limited(model, w)))
    for s in sublayers:
        about = {"cut": "skip", "what": "sublayer"} | _at(s)
        cuts.append(Cut(about, [s.index], lambda s=s: layers_skipped(model, [s.index])))
    for s in sublayers:
        for i in range(len(s.branches) if s.is_parallel else 0):
            about, place = {"cut": "zero", "what": "branch"} | _at(s, i), f"{s.index}.{i}"
            cuts.append(Cut(about, [s.index], lambda place=place: branches_cut(model, [place])))
    return cuts


def _at(s: Sublayer, branch: int | None = None) -> Row:
    """The columns that name a sublayer, or a branch of it."""
    if branch is None:
        kind = "parallel" if s.is_parallel else _kind(s, 0)
        return {"layer": s.index, "place": str(s.index), "letter": s.symbol, "kind": kind}
    place = f"{s.index}.{branch}"
    return {
        "layer": s.index,
        "place": place,
        "letter": s.letters[branch],
        "kind": _kind(s, branch),
    }


def _kind(s: Sublayer, branch: int) -> str:
    config: Any = s.branches[branch]
    return config.kind


def loss(model: HybridLM, trial: Trial, state: Any = None) -> float:
    """Return -ln P of what must be said: of the whole answer, or the mean over tokens, in nats.

    Args:
        model: in evaluation mode.
        trial: what is read.
        state: what is remembered of the prompt instead of reading it, used up; None: read it.
    """
    tokens = trial.rest if state is not None else torch.cat((trial.prompt, trial.rest), dim=1)
    hidden = model(tokens[:, :-1], state=state, return_state=False).hidden[0, -trial.n_said :]
    wanted = tokens[0, -trial.n_said :]
    parts = zip(hidden.split(LOGITS_AT_ONCE), wanted.split(LOGITS_AT_ONCE), strict=True)
    total = sum(_nll(precise_logits(model, h), w) for h, w in parts)
    return total if trial.is_answer else total / trial.n_said


def _nll(logits: Tensor, wanted: Tensor) -> float:
    losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    return float(losses.double().sum())


def _dropped(model: HybridLM, trial: Trial) -> dict[str, tuple[float, float]]:
    """Loss without memories of each kind and of all, and with random ones in their place."""
    state = model(trial.prompt).state
    assert state is not None
    found, held = {}, memories(state)
    kinds: dict[str, set[Memory]] = {
        kind: {m for m in held if m.kind == kind} for kind in KINDS if held
    }
    kinds = {name: own for name, own in kinds.items() if own}
    if len(kinds) > 1:
        kinds["all"] = set(held)
    for name, own in kinds.items():
        rng = torch.Generator().manual_seed(key_of(f"{trial.id} {name}") % 2**31)
        other = loss(model, trial, scrambled(state, own, rng))
        found[name] = (loss(model, trial, emptied(state, own)), other)
    return found


def _both(model: HybridLM, trial: Trial, cut: Cut) -> tuple[float, float]:
    """Loss under a cut, and under random changes of the same size."""
    with cut.on():
        harmed = loss(model, trial)
    rng = torch.Generator().manual_seed(key_of(f"{trial.id} {sorted(cut.about.items())}") % 2**31)
    with jolted(model, cut.layers, cut.on, rng):
        return harmed, loss(model, trial)


def _row(pairs: np.ndarray) -> Row:
    """Of (n, 2): harm and the control's harm, and what the cut does beyond it."""
    row = cells("harm", _mean(pairs[:, 0])) | cells("control", _mean(pairs[:, 1]))
    return row | cells("beyond", _mean(pairs[:, 0] - pairs[:, 1])) | {"n": len(pairs)}


def _mean(values: np.ndarray) -> Estimate:
    return over_documents(item, values[:, None])


INSTRUMENT = Instrument(
    name="ablation",
    title="What fails without a memory, far sight, a layer or a branch (models never trained so)",
    unit="nats",
    source="Meyes et al. 2019 (arXiv 1901.08644); Gromov et al. 2024 (arXiv 2403.17887)",
    why_not=why_not,
    run=run,
)
