"""Tasks of lm-evaluation-harness as tasks of ours: its questions and its scores, our results.

One document of piqa, and what is asked of it:

    ("Question: To open a jar\\nAnswer:", " twist the lid")   ("...", " twist the glass")
    {"acc": 1.0, "acc_norm": 1.0}

Questions, filters, scores and their aggregation are the harness's; batches, resume, items, errors
and comparison are those of every other task. Standard errors are over documents: s / sqrt(n) for a
mean, the delta method for what is made of means, the bootstrap for anything else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import HarnessTask
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.harness import harness, quietly
from braidlm.tasks.harness.aggregate import Summed, combined, summed
from braidlm.tasks.harness.find import Made, find, make
from braidlm.tasks.harness.requests import Asking, encode_pairs, generated, wanted, windows
from braidlm.tasks.likelihood import Likelihood, Pair, likelihoods
from braidlm.tasks.scoring import TOKENS_AT_ONCE, check_vocabulary
from braidlm.tasks.stats import exact, known
from braidlm.tasks.work import Column, Row, digest

TOGETHER = 256
"""Documents of a batch at most: what an interruption may lose."""


class Document(NamedTuple):
    """One document of a task, and its requests."""

    made: Made
    number: int
    doc: Any
    requests: list[Any]
    """The harness's instances, all of one type."""
    pairs: list[list[Pair]]
    """What log-likelihoods are asked of, for each request; empty for text to generate."""
    n_tokens: int


class HarnessWork:
    """The documents of a task, or of a group's tasks; see `braidlm.tasks.work.Work`.

    Raises:
        InputError: the harness is not installed, has no such task, or cannot make it of the data; a
            tokenizer that is larger than the model's vocabulary.
    """

    def __init__(self, task: HarnessTask, tokenizer: Tokenizer, recipe: Recipe) -> None:
        check_vocabulary(tokenizer, recipe)
        self.task, self.tokenizer, self._recipe = task, tokenizer, recipe
        self.asking = Asking(task.add_bos, task.max_length or None, recipe.data.seq_len)
        try:
            self.found = find(task.task)
            self.made = [make(leaf, task) for leaf in self.found.leaves]
            self.documents = [d for made in self.made for d in self._documents(made)]
        except InputError as error:
            raise InputError(f"task '{task.name}': {error}") from None
        self.digest = digest(self._asked())
        self.batches = self._batches()

    def _documents(self, made: Made) -> Iterator[Document]:
        """Yield the documents of one task with their requests, as the harness builds them."""
        numbers = range(min(self.task.n_items, len(made.task.task_docs)))
        found: list[tuple[int, Any, list[Any]]] = []
        for number in numbers:
            with _read(made, number):
                doc = made.task.task_docs[number]
                found.append((number, doc, _requests(made, number, doc)))
        every = [request for _, _, requests in found for request in requests]
        encoded = iter(self._encoded(every))
        for number, doc, requests in found:
            pairs = [next(encoded) for _ in requests]
            yield Document(made, number, doc, requests, pairs, _n_tokens(self, requests, pairs))

    def _encoded(self, requests: Sequence[Any]) -> list[list[Pair]]:
        """Return the pairs of each request: one, the windows of a text, or none."""
        kinds = {request.request_type for request in requests}
        if kinds == {"loglikelihood"}:
            texts = [request.args for request in requests]
            return [[pair] for pair in encode_pairs(self.tokenizer, texts, self.asking)]
        if kinds == {"loglikelihood_rolling"}:
            tokens = self.tokenizer.encode_batch([request.args[0] for request in requests])
            size = self.asking.max_length or self.asking.window
            return [windows(ids, self.tokenizer.bos_id, size) for ids in tokens]
        if kinds == {"generate_until"}:
            for request in requests:
                wanted(request.args[1])
            return [[] for _ in requests]
        raise InputError(f"it asks in ways that do not go together: {', '.join(sorted(kinds))}")

    def _asked(self) -> Iterator[np.ndarray]:
        """Yield all that is asked and what is right, as integers."""
        for document in self.documents:
            yield from (array for pairs in document.pairs for pair in pairs for array in pair)
            told = [document.made.name, document.made.task.doc_to_target(document.doc)]
            told += [request.args for request in document.requests if not document.pairs[0]]
            yield np.frombuffer(json.dumps(told, default=str).encode(), dtype=np.uint8)

    def _batches(self) -> list[list[int]]:
        """Longest documents first, a few forward passes together."""
        order = sorted(range(len(self.documents)), key=lambda i: (-self.documents[i].n_tokens, i))
        found: list[list[int]] = []
        room = 0
        for i in order:
            n_tokens = self.documents[i].n_tokens
            if not found or n_tokens > room or len(found[-1]) == TOGETHER:
                found.append([])
                room = 8 * TOKENS_AT_ONCE
            found[-1].append(i)
            room -= n_tokens
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """The same text in other tokens is other contexts; another harness may score otherwise."""
        return {"tokenizer": self.tokenizer.fingerprint, "lm_eval": str(harness().__version__)}

    @property
    def columns(self) -> Mapping[str, Column]:
        """What two models can be paired for: means over documents."""
        is_even = len(self.made) == 1 or not self.found.is_by_size
        means = [name for name, how in self._names.items() if how == "mean"]
        return {name: Column(name, None if is_even else "one") for name in means}

    @cached_property
    def _names(self) -> dict[str, str]:
        """Metric -> the harness's name of its aggregation, as the first task's file has them."""
        task = self.made[0].task
        how = {name: getattr(f, "__name__", "") for name, f in task.aggregation().items()}
        best = next((name for name in ("acc_norm", "acc") if name in how), next(iter(how)))
        found = {
            f"{name}{suffix}": how[name]
            for name in dict.fromkeys((best, *how))
            for suffix in suffixes(task)
        }
        return found | ({"nll": "mean"} if "perplexity" in how.values() else {})

    def score(self, model: nn.Module, items: Sequence[int]) -> list[Row]:
        """Answer one batch; see `Work.score`."""
        documents = [self.documents[i] for i in items]
        flat = [pair for d in documents for pairs in d.pairs for pair in pairs]
        said = iter(likelihoods(model, flat) if flat else [])
        texts = [r.args for d in documents for r in d.requests if r.request_type.startswith("gen")]
        given = iter(generated(model, self.tokenizer, texts, self.asking) if texts else [])
        rows = []
        for document in documents:
            answers: list[Any] = []
            for request, pairs in zip(document.requests, document.pairs, strict=True):
                if request.request_type.startswith("gen"):
                    answers.append(next(given))
                else:
                    found = [next(said) for _ in pairs]
                    is_one = request.request_type == "loglikelihood"
                    answers.append(found[0] if is_one else sum(one.logprob for one in found))
            rows.append(self._row(document, answers))
        return rows

    def _row(self, document: Document, answers: list[Any]) -> Row:
        made, row = document.made, {"id": str(document.number)}
        if len(self.made) > 1:
            row = {"id": f"{made.name}/{document.number}", "task": made.name}
            row |= {} if self.found.is_by_size else {"group": made.name}
        metrics = _judged(document, answers)
        if "nll" in self._names:
            metrics["nll"] = -metrics["perplexity"]
        row = {**row, "one": 1, **metrics, "target": made.task.doc_to_target(document.doc)}
        if isinstance(answers[0], Likelihood):
            row |= {"logprobs": [answer.logprob for answer in answers]}
            row |= {"is_greedy": [answer.is_greedy for answer in answers]}
        else:
            row |= {"answers": answers}
        return _plain({**row, "tokens": document.n_tokens})

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return metric, metrics and tables; see `Work.summary`."""
        by_task = [
            (made, [row for row in rows if row.get("task", made.name) == made.name])
            for made in self.made
        ]
        found = {
            name: [summed(made.task, name, how, some) for made, some in _with(by_task, name)]
            for name, how in self._names.items()
        }
        metrics = {n: combined(parts, self.found.is_by_size) for n, parts in found.items() if parts}
        metrics = {name: entry.metric() for name, entry in metrics.items()}
        metric = next(iter(metrics))
        if all(_picks_one(made.task) for made in self.made):
            share = float(np.mean([1 / len(d.requests) for d in self.documents]))
            metrics["chance"] = exact(share, len(rows), "share")
        primary = {key: metrics[metric][key] for key in ("value", "stderr", "n")}
        tables = {"by_task": self._table(found)} if len(self.made) > 1 else {}
        longest = max(document.n_tokens for document in self.documents)
        return {"metric": metric, **primary, "metrics": metrics, "tables": tables} | {
            "n_items": len(rows),
            "seq_len": longest,
            "trained_seq_len": self._recipe.data.seq_len,
            "is_extrapolated": longest > self._recipe.data.seq_len,
            "data": {"path": self.task.path or "hub"}
            | {"splits": {made.name: made.split for made in self.made}},
            "harness": {
                "version": str(harness().__version__),
                "tasks": {made.name: made.version for made in self.made},
                "num_fewshot": {made.name: made.n_shots for made in self.made},
            },
        }

    def _table(self, found: Mapping[str, list[Summed]]) -> list[dict[str, Any]]:
        """One line for each task of a group."""
        lines: dict[str, dict[str, Any]] = {}
        for name, parts in found.items():
            for part in parts:
                line = lines.setdefault(part.task, {"task": part.task})
                line |= {name: known(part.value), f"{name}_stderr": known(part.stderr)}
                line["n"] = part.n
        return list(lines.values())

    def example(self) -> str:
        """Draw the first document's requests."""
        document = self.documents[0]
        shown = [f"{len(self.documents)} documents, the first of them:"]
        for request in document.requests:
            first, second = (*request.args, "")[:2]
            shown.append(f"{first}[{second if isinstance(second, str) else json.dumps(second)}]")
        shown.append(f"right: {document.made.task.doc_to_target(document.doc)!r}")
        return "\n".join(shown)


@contextlib.contextmanager
def _read(made: Made, number: int) -> Iterator[None]:
    """Say which document the harness cannot do anything with."""
    try:
        with quietly():
            yield
    except InputError:
        raise
    except Exception as error:  # whatever a file of the harness raises over strange data
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"document {number} of '{made.name}' does not have what lm-evaluation-harness reads "
            f"({type(error).__name__}: {said})"
        ) from None


def _requests(made: Made, number: int, doc: Any) -> list[Any]:
    """Return the harness's requests for a document."""
    task = made.task
    context = task.fewshot_context(
        doc, num_fewshot=made.n_shots, gen_prefix=task.doc_to_prefix(doc)
    )
    repeats = task.config.repeats
    found = task.construct_requests(doc=doc, ctx=context, metadata=(made.name, number, repeats))
    found = found if isinstance(found, list) else [found]
    if not found:
        raise InputError(f"document {number} of '{made.name}' asks nothing")
    return found


def _n_tokens(work: HarnessWork, requests: Sequence[Any], pairs: Sequence[list[Pair]]) -> int:
    """Return how many tokens the longest request has, those to generate included."""
    if pairs[0]:
        return max(sum(map(len, pair)) for some in pairs for pair in some)
    lengths = [len(work.tokenizer.encode(r.args[0])) + 1 for r in requests]
    return max(n + wanted(r.args[1]).max_new_tokens for n, r in zip(lengths, requests, strict=True))


def _judged(document: Document, answers: Sequence[Any]) -> dict[str, Any]:
    """Return metric -> what one document adds to it, by every filter of its task."""
    task, found = document.made.task, {}
    for request, answer in zip(document.requests, answers, strict=True):
        told = tuple(answer) if isinstance(answer, Likelihood) else answer
        request.resps = [told] * max(1, request.repeats or 1)
    filters: Sequence[Any] = getattr(task, "_filters", ())
    with _read(document.made, document.number):
        for ensemble, suffix in zip(filters, suffixes(task), strict=True):
            ensemble.apply(document.requests)
            given = [request.filtered_resps[ensemble.name] for request in document.requests]
            metrics = task.process_results(document.doc, given)
            found |= {f"{name}{suffix}": _plain(value) for name, value in metrics.items()}
    return found


def _picks_one(task: Any) -> bool:
    """Tell whether one of a document's requests is right, and nothing but that counts."""
    return task.OUTPUT_TYPE == "multiple_choice" and task.config.process_results is None


def suffixes(task: Any) -> list[str]:
    """Return what stands behind the names of a task's metrics: one of each filter's."""
    names = [ensemble.name for ensemble in getattr(task, "_filters", ())]
    return ["" if name == "none" else f",{name}" for name in names]


def _with(by_task: Sequence[tuple[Made, list[Row]]], name: str) -> Iterator[tuple[Made, list[Row]]]:
    """Yield the tasks that have a metric, with their rows."""
    return ((made, rows) for made, rows in by_task if rows and name in rows[0])


def _plain(value: Any) -> Any:
    """Return numbers, lists and dictionaries of Python, which a file can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
