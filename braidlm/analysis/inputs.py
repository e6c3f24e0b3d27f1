"""What the model reads while it is looked at: real text, or the prompts of a recall task."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from braidlm.arch import Recipe
from braidlm.arch.pairs import PairsSource
from braidlm.arch.sources import TextSource
from braidlm.arch.tasks import AnyTask, MQARTask, PhonebookTask
from braidlm.data.prepare import held_out_documents
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.tasks.mqar import MQARWork
from braidlm.tasks.phonebook import PhonebookWork
from braidlm.tasks.scoring import check_vocabulary
from braidlm.tasks.work import digest


class Asked(NamedTuple):
    """One question of a prompt."""

    query: int
    """The token after which the model must answer."""
    answer: tuple[int, ...]
    """Tokens of the right answer."""
    source: tuple[int, int]
    """Where the answer stands in the prompt before: first token, and one past the last."""


class Document(NamedTuple):
    """One sequence of tokens, read from its beginning."""

    id: str
    tokens: np.ndarray
    """(T,) int64; text opens with bos."""
    asked: tuple[Asked, ...] = ()
    """Of a recall prompt: its questions, in order."""


@dataclass(frozen=True)
class Inputs:
    """The documents of one analysis."""

    name: str
    """Of the result files: "" for held-out documents, "text", or a task's name."""
    kind: Literal["text", "recall"]
    origin: dict[str, Any]
    """What the documents were made from, for the result."""
    documents: Sequence[Document]
    tokenizer: Tokenizer | None = None
    """Of text and of phonebooks; the symbols of MQAR have none."""
    is_extrapolated: bool = False
    """Whether they are longer than what the model was trained on."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest(document.tokens for document in self.documents))

    @property
    def about(self) -> dict[str, Any]:
        """What a result says of its inputs."""
        lengths = [len(document.tokens) for document in self.documents]
        return {
            "kind": self.kind,
            **self.origin,
            "n_documents": len(lengths),
            "longest": max(lengths),
            "n_tokens": sum(lengths),
            "digest": self.digest,
        }


N_DOCUMENTS, N_TOKENS, LEAST = 16, 2**16, 4


def n_documents_of(length: int) -> int:
    """Return how many documents of `length` tokens are read if nobody says: fewer of long ones.

    16; of documents beyond 4,096 tokens as many as have 65,536 in all, but at least 4.
    """
    return max(LEAST, min(N_DOCUMENTS, N_TOKENS // length))


def check_numbers(context: int | None, n_documents: int | None) -> None:
    """Refuse a context or a number of documents that cannot be.

    Raises:
        InputError: naming the value.
    """
    if context is not None and context < 2:
        raise InputError(f"context = {context}: must be at least 2 tokens")
    if n_documents is not None and n_documents < 1:
        raise InputError(f"documents = {n_documents}: must be at least 1")


def held_out(recipe: Recipe, tokenizer: Tokenizer, context: int | None, n_documents: int) -> Inputs:
    """Return the beginnings of held-out documents of the recipe's sources, in turns.

    Args:
        recipe: declares the sources.
        tokenizer: the recipe's.
        context: tokens of each document; None: the length that was trained on.
        n_documents: at most.

    Raises:
        InputError: no source of text, or no held-out document that is long enough.
    """
    check_vocabulary(tokenizer, recipe)
    sources = [s.name for s in recipe.data.sources if isinstance(s, TextSource | PairsSource)]
    if not sources:
        raise InputError(
            "the recipe has no source of text: give a text (--text FILE) or a recall task "
            "(--task NAME)"
        )
    wanted = context or recipe.data.seq_len
    lengths: list[int] = []
    found = [_long_enough(recipe, tokenizer, name, wanted, lengths) for name in sources]
    documents = list(itertools.islice(_in_turns(found), n_documents))
    if not documents:
        raise InputError(
            f"context = {wanted}: no held-out document of {', '.join(sources)} has so many tokens; "
            f"the longest has {max(lengths, default=0)}"
        )
    origin = {"sources": sources, "context": wanted, "held_out": recipe.data.held_out}
    return _text("", recipe, tokenizer, wanted, origin, documents)


def of_file(
    path: str | os.PathLike[str],
    recipe: Recipe,
    tokenizer: Tokenizer,
    context: int | None,
    n_documents: int,
) -> Inputs:
    """Return a text file cut into documents of `context` tokens, the rest left out.

    Raises:
        InputError: a file that cannot be read, is empty, or is shorter than the context.
    """
    check_vocabulary(tokenizer, recipe)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"--text {path}: cannot be read ({reason})") from None
    if not text.strip():
        raise InputError(f"--text {path}: the file is empty")
    wanted, ids = context or recipe.data.seq_len, tokenizer.encode(text)
    n = min(len(ids) // (wanted - 1), n_documents)  # each opens with bos
    if not n:
        raise InputError(
            f"context = {wanted}: --text {path} has only {len(ids) + 1} tokens with its bos"
        )
    parts = ids[: n * (wanted - 1)].reshape(n, wanted - 1)
    documents = [
        Document(f"text/{i}", np.concatenate(([tokenizer.bos_id], part)))
        for i, part in enumerate(parts)
    ]
    origin = {"file": Path(path).name, "context": wanted}
    return _text("text", recipe, tokenizer, wanted, origin, documents)


def of_task(
    task: AnyTask,
    recipe: Recipe,
    tokenizer: Tokenizer | None,
    context: int | None,
    n_documents: int,
) -> Inputs:
    """Return the prompts of a recall task, the first ones of each of its kinds.

    Args:
        task: of the kind mqar or phonebook.
        recipe: declares its source.
        tokenizer: of the recipe; phonebooks need it.
        context: tokens of a prompt at most; None: as the task declares.
        n_documents: at most.

    Raises:
        InputError: another kind of task, or prompts that do not fit.
    """
    if isinstance(task, MQARTask):
        task = task if context is None else task.model_copy(update={"length": context})
        kinds = _mqar(task.model_copy(update={"n_items": n_documents}), recipe)
    elif isinstance(task, PhonebookTask) and tokenizer is not None:
        kinds = _phonebook(task, recipe, tokenizer, context, n_documents)
    else:
        raise InputError(f"task '{task.name}' is no recall task (mqar or phonebook)")
    documents = list(itertools.islice(_in_turns(kinds), n_documents))
    longest = max(len(document.tokens) for document in documents)
    config = task.model_dump(mode="json", exclude={"name"})
    origin = {"task": task.name, "config": config}
    is_longer = longest > recipe.data.seq_len
    return Inputs(task.name, "recall", origin, documents, tokenizer, is_longer)


def _text(
    name: str,
    recipe: Recipe,
    tokenizer: Tokenizer,
    context: int,
    origin: dict[str, Any],
    documents: Sequence[Document],
) -> Inputs:
    origin |= {"tokenizer": tokenizer.fingerprint}
    return Inputs(name, "text", origin, documents, tokenizer, context > recipe.data.seq_len)


def _long_enough(
    recipe: Recipe, tokenizer: Tokenizer, name: str, context: int, lengths: list[int]
) -> Iterator[Document]:
    """Documents of a source that have `context` tokens, cut to them; tells how long all are."""
    for document in held_out_documents(recipe.data, name, tokenizer=tokenizer):
        lengths.append(len(document.tokens))
        if len(document.tokens) >= context:
            tokens = np.asarray(document.tokens[:context], dtype=np.int64)
            yield Document(f"{name}/{document.id}", tokens)


def _mqar(task: MQARTask, recipe: Recipe) -> list[Iterator[Document]]:
    """Items of each number of pairs; a pair's value stands behind its key."""

    def prompts(level: Any) -> Iterator[Document]:
        items = level.items
        for i, tokens in enumerate(items.tokens):
            rows = zip(
                items.query_positions[i].tolist(),
                items.answers[i].tolist(),
                (items.pair_positions[i, :, -1] + 1).tolist(),
                strict=True,
            )
            asked = sorted(Asked(at, (answer,), (place, place + 1)) for at, answer, place in rows)
            yield Document(f"{items.n_pairs}/{i}", tokens, tuple(asked))

    return [prompts(level) for level in MQARWork(task, recipe).levels]


def _phonebook(
    task: PhonebookTask,
    recipe: Recipe,
    tokenizer: Tokenizer,
    context: int | None,
    n_documents: int,
) -> list[Iterator[Document]]:
    """Prompts of each order and length; the answer is the number in the entry that is asked for."""
    lengths = task.lengths if context is None else (context,)
    work = PhonebookWork(
        task.model_copy(update={"lengths": lengths, "n_items": n_documents}), tokenizer, recipe
    )

    def prompts(first: int, name: str) -> Iterator[Document]:
        for i, item in enumerate(work.items[first : first + n_documents]):
            source = item.values[item.asked[-1]]
            asked = Asked(len(item.prompt) - 1, tuple(item.answer.tolist()), source)
            yield Document(f"{name}/{i}", item.prompt, (asked,))

    return [
        prompts(number * n_documents, f"{order}/{length}")
        for number, (order, length) in enumerate(work.levels)
    ]


def _in_turns(kinds: Sequence[Iterator[Document]]) -> Iterator[Document]:
    """One of each kind after another, until all are at their end."""
    for row in itertools.zip_longest(*kinds):
        yield from (document for document in row if document is not None)
