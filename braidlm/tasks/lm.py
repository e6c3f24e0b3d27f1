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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import LMTask
from braidlm.data.inspection import show_tokens
from braidlm.data.prepare import held_out_documents
from braidlm.data.shards import TokenDocument
from braidlm.data.tokenizer import Tokenizer
from braidlm.tasks.scoring import check_vocabulary, score
from braidlm.tasks.stats import exponential, known, ratio
from braidlm.tasks.work import Column, Row, digest

SHOWN_TOKENS = 48
TOKENS_TOGETHER = 2**16
"""Tokens of the documents that are packed into rows together."""


class LMWork:
    """The held-out documents of a task; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: no held-out document, or a tokenizer that is larger than the model's vocabulary.
    """

    columns: Mapping[str, Column] = {
        "bits_per_byte": Column("bits", "n_bytes"),
        "nll_per_token": Column("nll", "n_tokens"),
    }

    def __init__(self, task: LMTask, tokenizer: Tokenizer, recipe: Recipe) -> None:
        check_vocabulary(tokenizer, recipe)
        self.task, self.tokenizer, self._recipe = task, tokenizer, recipe
        self.documents = _documents(task, tokenizer, recipe)
        longest = max((len(document.tokens) - 2 for document in self.documents), default=1)
        self.edges = edges_of(min(task.seq_len, longest), task.bins)
        self.digest = digest(document.tokens for document in self.documents)
        self.batches = _batches([len(document.tokens) for document in self.documents])

    @property
    def identity(self) -> dict[str, Any]:
        """The same documents in other tokens are other contexts."""
        return {"tokenizer": self.tokenizer.fingerprint, "held_out": self._recipe.data.held_out}

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Score the text's tokens of one batch of documents; see `Work.score`."""
        documents = [self.documents[i] for i in items]
        # The eos is not scored.
        losses = score(model, [d.tokens[:-1] for d in documents], self.task.seq_len)
        return [
            row_of(document, found, self.edges, self.task.seq_len)
            for document, found in zip(documents, losses, strict=True)
        ]

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        return {
            **summary(rows),
            "tables": {"by_position": by_position(rows, self.edges, self.task.seq_len)},
            "seq_len": self.task.seq_len,
            "trained_seq_len": self._recipe.data.seq_len,
            "is_extrapolated": self.task.seq_len > self._recipe.data.seq_len,
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


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return documents in their order, `TOKENS_TOGETHER` tokens or a little more together."""
    found, n_tokens = [], TOKENS_TOGETHER
    for i, length in enumerate(lengths):
        if n_tokens >= TOKENS_TOGETHER:
            found.append([])
            n_tokens = 0
        found[-1].append(i)
        n_tokens += length
    return found


def row_of(document: TokenDocument, losses: np.ndarray, edges: np.ndarray, seq_len: int) -> Row:
    """Return what is stored of one document.

    Args:
        document: of the form bos, text, eos.
        losses: (n,) of the text's tokens, nats.
        edges: of the bins by position.
        seq_len: tokens of the longest context.
    """
    bin_of = np.searchsorted(edges, np.arange(len(losses)) % seq_len, side="right") - 1
    return {
        "id": document.id,
        "n_tokens": len(losses),
        "n_bytes": document.n_bytes,
        "nll": float(losses.sum()),
        "bits": float(losses.sum()) / math.log(2),
        "nll_by_bin": np.bincount(bin_of, losses, minlength=len(edges) - 1).tolist(),
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the metrics of scored documents and the primary one."""
    sums, n_tokens, n_bytes = (
        np.array([row[key] for row in rows]) for key in ("nll", "n_tokens", "n_bytes")
    )
    nll = ratio(sums, n_tokens)
    metrics = {
        "bits_per_byte": ratio(sums / math.log(2), n_bytes).as_metric("bits per byte"),
        "nll_per_token": nll.as_metric("nats per token"),
        "perplexity": exponential(nll).as_metric("per token"),
    }
    primary = {key: metrics["bits_per_byte"][key] for key in ("value", "stderr", "n")}
    return {"metric": "bits_per_byte", **primary, "metrics": metrics}


def edges_of(width: int, bins: int) -> np.ndarray:
    """Return the edges of at most `bins` equally wide bins of the places 0 .. width - 1."""
    return np.unique(np.linspace(0, width, min(bins, width) + 1).round().astype(int))


def by_position(rows: Sequence[Row], edges: np.ndarray, seq_len: int) -> list[dict[str, Any]]:
    """Return the mean loss of targets whose context has start + 1 .. end tokens, for each bin.

    A bin that no document reaches is left out. `n` counts tokens, `n_documents` the clusters.
    """
    sums = np.array([row["nll_by_bin"] for row in rows])
    counts = np.array([_counts(row["n_tokens"], edges, seq_len) for row in rows])
    table = []
    for b, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        reached = counts[:, b] > 0
        if not reached.any():
            continue
        found = ratio(sums[reached, b], counts[reached, b])
        row = {"start": start, "end": end, "nll": known(found.value), "stderr": known(found.stderr)}
        table.append(row | {"n": int(counts[:, b].sum()), "n_documents": found.n})
    return table


def _counts(n_tokens: int, edges: np.ndarray, seq_len: int) -> np.ndarray:
    """Return how many of a document's tokens lie in each bin: whole parts, and the last one."""
    whole, rest = divmod(n_tokens, seq_len)
    return whole * np.diff(edges.clip(max=seq_len)) + np.diff(edges.clip(max=rest))
