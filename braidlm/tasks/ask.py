"""Ask a model the items of a task, batch by batch, and keep what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import AnyTask
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.ops import dispatch
from braidlm.tasks.families import make_ready
from braidlm.tasks.filtering import Filtering, told
from braidlm.tasks.greedy import steps_kept
from braidlm.tasks.partial import Partial, Scored
from braidlm.tasks.scoring import Progress
from braidlm.tasks.work import Row, Work


def run_task(
    task_config: AnyTask,
    model: nn.Module,
    tokenizer: Tokenizer,
    recipe: Recipe,
    *,
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask one task of a model, wherever its weights are.

    Args:
        task_config: what is asked.
        model: a `HybridLM`, or anything that is called like one; its mode is restored.
        tokenizer: of the recipe's data.
        recipe: gives the task's source and the model's declaration.
        dtype: "fp32", or "bf16" for matrix products under autocast.
        progress: told (items done, items in all).

    Returns:
        The payload of a result file: metric, value, stderr, n, metrics, tables, and whether the
        contexts are longer than the trained ones.

    Raises:
        InputError: a source that does not fit the task.
    """
    work = make_ready(task_config, tokenizer, recipe)
    filtering = Filtering(task_config, recipe)
    scored = ask(work, work.batches, lambda: model, Partial(None, {}), dtype, progress, filtering)
    return work.summary(in_order(work.batches, scored)) | told(batch.kept for batch in scored)


def smaller(batches: Sequence[Sequence[int]], batch_size: int | None = None) -> list[Sequence[int]]:
    """Return the batches, each cut into parts of at most `batch_size` items.

    Raises:
        InputError: a size below 1.
    """
    if batch_size is None:
        return list(batches)
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: must be at least 1 item")
    return [b[i : i + batch_size] for b in batches for i in range(0, len(b), batch_size)]


def ask(
    work: Work,
    batches: Sequence[Sequence[int]],
    model: Callable[[], nn.Module],
    partial: Partial,
    dtype: str,
    progress: Progress | None,
    filtering: Filtering | None = None,
) -> list[Scored]:
    """Score every batch that `partial` does not hold, in order; return all of them.

    Without `filtering` the model reads every token, whatever its task says.
    """
    done, total = 0, sum(map(len, batches))
    with steps_kept():
        for number, batch in enumerate(batches):
            if number not in partial.batches:
                asked = model()
                filtered = nullcontext(dict) if filtering is None else filtering.on(asked, dtype)
                with filtered as kept:
                    dispatch.reset()
                    began = time.perf_counter()
                    with inference(asked, dtype):
                        rows = work.score(asked, batch)
                    taken = time.perf_counter() - began
                    partial.add(number, Scored(rows, taken, dispatch.used(), kept()))
            done += len(batch)
            if progress is not None:
                progress(done, total)
    return [partial.batches[number] for number in range(len(batches))]


def in_order(batches: Sequence[Sequence[int]], scored: Sequence[Scored]) -> list[Row]:
    """Return every item's row by the item's number, however they were batched."""
    found = {
        item: row
        for batch, answers in zip(batches, scored, strict=True)
        for item, row in zip(batch, answers.rows, strict=True)
    }
    return [found[item] for item in sorted(found)]
