"""Language modelling on held-out documents, in nats per token and in bits per byte.

One document, the text "Hi.", with the byte tokenizer and contexts of at most 2 tokens:

    document   <bos> H i . <eos>
    part 1     <bos> -> H     <bos> H -> i
    part 2     i -> .

Every token of the text is scored once, given the tokens of its part before it; a document opens
with bos. The closing eos is not scored: it belongs to no byte of the text, and without it bits per
byte are those of other evaluators. A later part begins with the last token of the part before it.
Standard errors are over documents, by the delta method of `stats.ratio`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.experiment import LMTask
from braidlm.data.inspection import show_tokens
from braidlm.data.prepare import held_out_documents
from braidlm.data.shards import TokenDocument
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.scoring import Progress, score
from braidlm.tasks.stats import exponential, known, ratio

SHOWN_TOKENS = 48


class Scored(NamedTuple):
    """Documents and the losses of their text's tokens."""

    documents: list[TokenDocument]
    losses: list[np.ndarray]
    """For each document float64 (n_i,), nats."""
    seq_len: int
    """Tokens of the longest context."""


def run_lm(
    task: LMTask,
    model: nn.Module,
    tokenizer: Tokenizer,
    recipe: Recipe,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score the held-out documents; return a result's payload.

    Metrics: bits_per_byte (primary), nll_per_token (nats), perplexity. Tables: by_position (places
    inside the part) and by_document. `seq_len`, `trained_seq_len` and `is_extrapolated` say whether
    the contexts are longer than the trained ones.

    Raises:
        InputError: no held-out document, or a tokenizer that is larger than the model's vocabulary.
    """
    if tokenizer.vocab_size > recipe.spec.vocab_size:
        raise InputError(
            f"tokenizer '{tokenizer.name}' has {tokenizer.vocab_size} tokens: the model's "
            f"vocab_size = {recipe.spec.vocab_size} must be at least that"
        )
    scored = score_documents(model, _documents(task, tokenizer, recipe), task.seq_len, progress)
    return {
        **summary(scored, task.bins),
        "seq_len": task.seq_len,
        "trained_seq_len": recipe.data.seq_len,
        "is_extrapolated": task.seq_len > recipe.data.seq_len,
    }


def describe_lm(task: LMTask, tokenizer: Tokenizer, recipe: Recipe) -> str:
    """Draw the beginning of the first document, with what is predicted from what."""
    document = next(iter(_documents(task, tokenizer, recipe)))
    tokens = document.tokens[: min(SHOWN_TOKENS, task.seq_len + 1)]
    context, target = (show_tokens(part, tokenizer) for part in (tokens[:-1], tokens[-1:]))
    return (
        f"document {document.id}: {len(document.tokens) - 2} tokens, {document.n_bytes} bytes, "
        f"in parts of at most {task.seq_len} tokens\n{context} -> {target!r}"
    )


def _documents(task: LMTask, tokenizer: Tokenizer, recipe: Recipe) -> list[TokenDocument]:
    """Return the held-out documents, the same ones for every seed of the run."""
    found = held_out_documents(
        recipe.data, task.source, tokenizer=tokenizer, limit=task.n_documents
    )
    return [document for document in found if len(document.tokens) > 2]


def score_documents(
    model: nn.Module,
    documents: list[TokenDocument],
    seq_len: int,
    progress: Progress | None = None,
) -> Scored:
    """Score documents of the form bos, text, eos, without their eos; see `scoring.score`."""
    sequences = [document.tokens[:-1] for document in documents]
    return Scored(documents, score(model, sequences, seq_len, progress), seq_len)


def summary(scored: Scored, bins: int) -> dict[str, Any]:
    """Return metric, metrics and tables of scored documents.

    Args:
        scored: the losses.
        bins: rows of the table by position; they are equally wide.
    """
    sums = np.array([losses.sum() for losses in scored.losses])
    n_tokens = np.array([len(losses) for losses in scored.losses])
    n_bytes = np.array([document.n_bytes for document in scored.documents])
    nll = ratio(sums, n_tokens)
    metrics = {
        "bits_per_byte": ratio(sums / math.log(2), n_bytes).as_metric("bits per byte"),
        "nll_per_token": nll.as_metric("nats per token"),
        "perplexity": exponential(nll).as_metric("per token"),
    }
    by_document = [
        {
            "document": document.id,
            "n_tokens": len(losses),
            "n_bytes": document.n_bytes,
            "nll": float(losses.mean()),
        }
        for document, losses in zip(scored.documents, scored.losses, strict=True)
    ]
    primary = {key: metrics["bits_per_byte"][key] for key in ("value", "stderr", "n")}
    tables = {"by_position": by_position(scored, bins), "by_document": by_document}
    return {"metric": "bits_per_byte", **primary, "metrics": metrics, "tables": tables}


def by_position(scored: Scored, bins: int) -> list[dict[str, Any]]:
    """Return the mean loss of targets whose context has start + 1 .. end tokens, for each bin.

    A bin that no document reaches is left out. `n` counts tokens, `n_documents` the clusters.
    """
    width = min(scored.seq_len, max(map(len, scored.losses)))
    edges = np.unique(np.linspace(0, width, min(bins, width) + 1).round().astype(int))
    sums = np.zeros((len(scored.losses), len(edges) - 1))
    counts = np.zeros_like(sums)
    for i, losses in enumerate(scored.losses):
        place = np.arange(len(losses)) % scored.seq_len
        bin_of = np.searchsorted(edges, place, side="right") - 1
        sums[i] = np.bincount(bin_of, losses, minlength=sums.shape[1])
        counts[i] = np.bincount(bin_of, minlength=sums.shape[1])
    rows = []
    for b, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        reached = counts[:, b] > 0
        found = ratio(sums[reached, b], counts[reached, b])
        row = {"start": start, "end": end, "nll": known(found.value), "stderr": known(found.stderr)}
        rows.append(row | {"n": int(counts[:, b].sum()), "n_documents": found.n})
    return rows
