"""What several arms' analyses found, in one table: a row per number, a column per arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from braidlm.report import units
from braidlm.report.analysis.finding import told
from braidlm.report.analysis.picture import Look
from braidlm.report.analysis.read import digest_of, inputs_of, instrument_of
from braidlm.report.html import Markup, join, plain_table, tag

Data = dict[str, Any]

COMPARED = {
    "memory-length": {
        "half_life": "half-life of a recurrence, mean (tokens)",
        "longest_half_life": "longest half-life (tokens)",
    },
    "attention-span": {
        "rest": "distance of attention beyond the first four tokens (tokens)",
        "span": "span of 90 % of the weight (tokens)",
        "entropy": "entropy of attention (nats)",
        "four": "weight on the first four tokens (share)",
    },
    "branch-share": {
        "first_share": "share of the first branch",
        "cosine": "agreement of branches (cosine)",
    },
    "influence": {
        "half_distance": "half distance of the model (tokens)",
        "attention_half_distance": "half distance of attention, mean (tokens)",
        "recurrent_half_distance": "half distance of recurrences, mean (tokens)",
    },
    "state-use": {
        "rank": "effective rank of states, mean (dimensions)",
        "growth": "growth of states (exponent)",
        "recovered": "most pairs read back from a state",
    },
    "surgery": {
        "kv": "probability that KV caches move",
        "recurrent": "probability that recurrent states move",
        "total": "probability that all memories move",
        "kv_nats": "log odds that KV caches move (nats)",
        "recurrent_nats": "log odds that recurrent states move (nats)",
    },
    "ablation": {
        "loss": "loss of what ablation asks (nats)",
        "drop_kv": "loss that is added without KV caches (nats)",
        "drop_recurrent": "loss that is added without recurrent states (nats)",
    },
    "retrieval-heads": {
        "before": "recall of the prompts (share)",
        "drop": "recall lost with the best heads beyond random ones (share)",
    },
    "repeats": {"repeat": "loss of repeats (nats)", "other": "loss of other tokens (nats)"},
    "in-context": {"gain": "gain by examples or context"},
}
"""Metrics of each instrument that mean the same in every model."""
_NOTE = (
    "The same numbers of every arm, on the same documents; ± is half of a 95 % interval of each "
    "arm by itself. Numbers on other documents than the first arm's are left out."
)


def side_by_side(arms: Sequence[tuple[str, Data]]) -> Markup:
    """Return the table of arms (label, what `analyses` found); empty for less than two."""
    rows = [
        (words, *cells)
        for name in dict.fromkeys(r["name"] for _, found in arms for r in found["results"])
        for words, cells in _rows(name, [found["results"] for _, found in arms])
    ]
    if len(arms) < 2 or not rows:
        return Markup("")
    title = tag("h3", "Side by side", cls="part")
    heads = ("Number", *(label for label, _ in arms))
    table = plain_table(heads, rows, name="Analyses side by side")
    return join([title, tag("p", _NOTE, cls="about"), table])


def _rows(name: str, arms: Sequence[Sequence[Data]]) -> list[tuple[str, list[str]]]:
    """The numbers of one result file: what it is, and a cell per arm."""
    own = [next((r for r in results if r["name"] == name), None) for results in arms]
    first = next(result for result in own if result is not None)
    read = inputs_of(first)
    found = []
    for metric, words in COMPARED.get(instrument_of(first), {}).items():
        cells = [_cell(result, metric, digest_of(first)) for result in own]
        if any(cell != units.MISSING for cell in cells):
            found.append((f"{words}, {read}" if read else words, cells))
    return found


def _cell(result: Data | None, metric: str, digest: str) -> str:
    if result is None or digest_of(result) != digest:
        return units.MISSING
    value = Look(result, []).metric(metric)
    return units.MISSING if value is None else told(*value)
