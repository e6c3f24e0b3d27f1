"""How far back a recurrence remembers: the half-life of its state, and how a delta rule writes.

A cell of a state keeps exp(-rate step_t) of itself at token t. Over T tokens its decay is their
geometric mean, and the half-life that of a state which decays so at every token::

    decay     = exp(-rate mean_t step_t)
    half_life = ln 2 / (rate mean_t step_t)                                               tokens

A head has one cell (Mamba-2, Gated DeltaNet), one per key channel (KDA), or, without heads, one per
channel and column (Mamba-1). A delta rule moves what is found at a key by beta towards the new
value: along that key the eigenvalue of its step is decay (1 - beta). beta = 1 erases what was
there, and beta > 1 turns it around (a negative eigenvalue).

Source: Dao and Gu 2024 (arXiv 2405.21060) for the decay; Yang et al. 2024 (arXiv 2412.06464), the
    gated delta rule; Grazzi et al. 2024 (arXiv 2411.12537) for negative eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

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
from braidlm.arch import Sublayer
from braidlm.arch.mixers import BMojoFConfig, MixerConfig
from braidlm.mixers.reading import Forgetting
from braidlm.tasks.stats import exponential

QUANTILES = (0.1, 0.5, 0.9)

Read = dict[str, np.ndarray]
"""What one document tells of one mixer; see `_read`."""


def why_not(sublayers: Sequence[Sublayer]) -> str | None:
    """Whether no sublayer has a decaying state."""
    if any(forgets(branch) for s in sublayers for branch in s.branches):
        return None
    return "no layer has a state that decays"


def forgets(config: MixerConfig) -> bool:
    """Whether a mixer has a recurrence, or one inside."""
    return config.role == "recurrent" or isinstance(config, BMojoFConfig)


def run(subject: Subject, tell: Tell) -> Finding:
    """Measure every mixer that forgets."""
    about: dict[str, Row] = {}
    reads: dict[str, list[Read]] = {}
    documents = subject.inputs.documents
    for done, document in enumerate(documents, start=1):
        for layer in subject.walk(document):
            for part in layer.parts:
                if (told := part.forgetting()) is not None:
                    about[part.place] = part.about()
                    reads.setdefault(part.place, []).append(_read(told, layer.n_meta))
        tell(done, len(documents))
    heads = [about[at] | row for at in reads for row in _head_rows(reads[at])]
    layers = [about[at] | _layer_row(reads[at]) for at in reads]
    logs = [np.mean([_log_mean(reads[at][d]) for at in reads]) for d in range(len(documents))]
    rows = [
        {"id": document.id, "log_half_life": float(value)}
        for document, value in zip(documents, logs, strict=True)
    ]
    whole = exponential(over_documents(item, np.array(logs)))
    longest = over_documents(
        _longest,
        [
            np.concatenate([reads[at][d]["rates"].ravel() for at in reads])
            for d in range(len(documents))
        ],
    )
    metrics = {
        "half_life": whole.as_metric("tokens"),
        "longest_half_life": longest.as_metric("tokens"),
    }
    return Finding("half_life", metrics, {"layers": layers, "heads": heads}, rows)


def _read(told: Forgetting, n_meta: int) -> Read:
    """What a document tells.

    rates (n_heads, cells): mean of -ln decay per token. tokens (n_heads, 3): its quantiles over
    tokens, where a head has one cell. beta, eigenvalue, negative (n_heads,): means over tokens.
    """
    step = told.step[0, n_meta:].double().cpu().numpy()
    rate = told.rate.double().cpu().numpy()
    found = {"rates": (step.mean(0)[:, None] * rate).reshape(told.n_heads, -1)}
    if rate.size == told.n_heads:
        found["tokens"] = np.quantile(step * rate[:, 0], QUANTILES, axis=0).T
    if told.beta is not None:
        beta = told.beta[0, n_meta:].double().cpu().numpy()
        decay = np.exp(-step * rate[:, 0]).reshape(*beta.shape, -1).mean(-1)
        found["beta"] = beta.mean(0)
        found["eigenvalue"] = (decay * (1 - beta)).mean(0)
        found["negative"] = (beta > 1).mean(0)
    return found


def _head_rows(reads: Sequence[Read]) -> list[Row]:
    """One row per head; `low` and `high` are its 10 % and 90 % quantiles of the half-life.

    They are over tokens where a head has one cell, else over its cells, and so is the median.
    """
    rows = []
    for head in range(len(reads[0]["rates"])):
        row: Row = {"head": head, "n_cells": reads[0]["rates"].shape[1], "n": len(reads)}
        own = [read["rates"][head] for read in reads]
        row |= cells("half_life", over_documents(_half_life_at(0.5), own))
        if "tokens" in reads[0]:
            slow, _, fast = np.mean([read["tokens"][head] for read in reads], 0)
            row |= {"over": "tokens", "low": _half_life(fast), "high": _half_life(slow)}
        else:
            values = np.mean(own, 0)
            low, high = _half_life_at(0.9)(values), _half_life_at(0.1)(values)
            row |= {"over": "cells", "low": low, "high": high}
        for name in ("beta", "eigenvalue", "negative"):
            if name in reads[0]:
                row |= cells(name, over_documents(item, [r[name][head, None] for r in reads]))
        rows.append(row)
    return rows


def _layer_row(reads: Sequence[Read]) -> Row:
    """Quantiles over all cells of a mixer, and its longest half-life."""
    row: Row = {"n_heads": len(reads[0]["rates"]), "n_cells": reads[0]["rates"].size}
    own = [read["rates"] for read in reads]
    row |= cells("half_life", over_documents(_half_life_at(0.5), own))
    row |= cells("longest", over_documents(_longest, own))
    row |= {"low": _half_life_at(0.9)(np.mean(own, 0)), "high": _half_life_at(0.1)(np.mean(own, 0))}
    return row | {"n": len(reads)}


def _half_life(rate: float) -> float:
    """ln 2 / rate in tokens; infinite for a state that never decays."""
    return math.log(2) / rate if rate > 0 else math.inf


def _half_life_at(quantile: float) -> Callable[[np.ndarray], float]:
    """The half-life of the rate at a quantile over all cells."""
    return lambda rates: _half_life(float(np.quantile(rates, quantile)))


def _longest(rates: np.ndarray) -> float:
    """The half-life of the slowest cell."""
    return _half_life(float(rates.min()))


def _log_mean(read: Read) -> float:
    """Mean over cells of ln half_life; cells that never decay are left out."""
    rates = read["rates"][read["rates"] > 0]
    return float(np.log(math.log(2) / rates).mean()) if rates.size else math.nan


INSTRUMENT = Instrument(
    name="memory-length",
    title="How far back each recurrence remembers",
    unit="tokens",
    source="Dao and Gu 2024 (arXiv 2405.21060); Yang et al. 2024 (arXiv 2412.06464)",
    why_not=why_not,
    run=run,
)
