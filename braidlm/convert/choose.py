"""Which attentions stay: those without which the teacher loses most.

One attention at a time is replaced, by itself with a window or by nothing, and the teacher is asked
the tasks. With m a task's primary metric over items::

    harm = m(replaced) - m(teacher), or the negative of it where higher is better

Harm is paired by item, its standard error too. Layers are ranked by harm in each task, 1 for the
greatest; those with the lowest mean rank stay, the lower layer where two are level.

Source: Priming (arXiv 2605.08301): a window for one layer at a time, mean score over tasks; HALO
    (arXiv 2601.22156) weighs recall against commonsense.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from braidlm import checkpoint
from braidlm.analysis.cuts import layers_skipped
from braidlm.arch.convert import ChooseConfig
from braidlm.arch.tasks import AnyTask
from braidlm.convert.folder import Folder
from braidlm.convert.target import attentions
from braidlm.data.tokenizer import load_tokenizer
from braidlm.device import choose_device
from braidlm.generate.mode import choose_dtype
from braidlm.model import HybridLM
from braidlm.report.stats import better
from braidlm.runs import Run
from braidlm.tasks.ask import ask, in_order
from braidlm.tasks.families import make_ready
from braidlm.tasks.filtering import Filtering
from braidlm.tasks.partial import Partial
from braidlm.tasks.run import TaskProgress
from braidlm.tasks.stats import Estimate, known, ratio
from braidlm.tasks.work import Column, Work

Row = dict[str, Any]


def choose_layers(folder: Folder, progress: TaskProgress | None) -> list[int]:
    """Return the attentions that stay, by their number among the teacher's, in order.

    Args:
        folder: of the conversion; the ranking becomes its result `convert-layers`.
        progress: told how far each layer is.

    Returns:
        Nothing where the declaration says by itself what stays.
    """
    n_kept = folder.conversion.convert.keep
    if n_kept is None:
        return []
    if folder.kept is None:
        device = choose_device(folder.conversion.train.device)
        dtype = choose_dtype(None, device, folder.conversion.train.precision)
        rows = _ranked(folder, device, dtype, progress)
        places = sorted({(row["mean_rank"], row["layer"]) for row in rows})
        kept = sorted(layer for _, layer in places[:n_kept])
        for row in rows:
            row["is_kept"] = row["layer"] in kept
        _write(folder, rows, {"device": device.type, "dtype": dtype})
        folder.keep(kept)
    return list(folder.kept or ())


def _ranked(
    folder: Folder, device: torch.device, dtype: str, progress: TaskProgress | None
) -> list[Row]:
    """Ask every task with every layer replaced; a row for each pair."""
    config = folder.conversion.convert.choose
    model, recipe = checkpoint.load_model(folder.teacher, device, torch.float32)
    tasks = [t for t in recipe.tasks if not config.tasks or t.name in config.tasks]
    rows: list[Row] = []
    for task in tasks:
        work = make_ready(task, lambda: load_tokenizer(recipe.data.tokenizer), recipe)
        filtering = Filtering(task, recipe)
        rows += _of_task(model, work, task, config, dtype, progress, filtering)
    means = _mean_ranks(rows)
    for row in rows:
        row["mean_rank"] = means[row["layer"]]
    return rows


def _of_task(
    model: HybridLM,
    work: Work,
    task: AnyTask,
    config: ChooseConfig,
    dtype: str,
    progress: TaskProgress | None,
    filtering: Filtering,
) -> list[Row]:
    """Return a row for each attention, ranked by its harm in one task."""
    metric, column = next(iter(work.columns.items()))
    sign = 1.0 if better(metric) == "lower" else -1.0

    def asked() -> list[Row]:
        nothing = Partial(None, {})
        scored = ask(work, work.batches, lambda: model, nothing, dtype, None, filtering)
        return in_order(work.batches, scored)

    whole, rows = asked(), []
    layers = attentions(model.spec)
    for layer, s in enumerate(layers):
        with _replaced(model, s.index, config):
            harm = gap(asked(), whole, column, sign)
        place = {"layer": layer, "sublayer": s.index, "task": f"{task.kind}-{task.name}"}
        found = {"metric": metric, "harm": known(harm.value), "stderr": known(harm.stderr)}
        rows.append(place | found | {"n": harm.n})
        if progress is not None:
            progress(f"layers by {task.kind}-{task.name}", layer + 1, len(layers))
    order = sorted(rows, key=lambda row: (-(row["harm"] or 0.0), row["layer"]))
    for rank, row in enumerate(order, start=1):
        row["rank"] = rank
    return rows


def gap(now: Sequence[Row], before: Sequence[Row], column: Column, sign: float = 1.0) -> Estimate:
    """Return the difference of a metric between two lists of rows of the same items, paired."""
    values = [np.array([row[column.value] for row in rows], float) for rows in (now, before)]
    sizes = [row[column.over] for row in before] if column.over else np.ones(len(before))
    return ratio(sign * (values[0] - values[1]), sizes)


@contextlib.contextmanager
def _replaced(model: HybridLM, index: int, config: ChooseConfig) -> Iterator[None]:
    """Let one attention see a window alone, or nothing of it be added."""
    if config.replace == "skip":
        with layers_skipped(model, [index]):
            yield
        return
    mixer: Any = model.blocks[index].mix.mixer  # pyright: ignore[reportAttributeAccessIssue]
    before = mixer.window
    mixer.window = config.window if before is None else min(config.window, before)
    try:
        yield
    finally:
        mixer.window = before


def _mean_ranks(rows: Sequence[Row]) -> dict[int, float]:
    ranks: dict[int, list[int]] = {}
    for row in rows:
        ranks.setdefault(row["layer"], []).append(row["rank"])
    return {layer: sum(found) / len(found) for layer, found in ranks.items()}


def _write(folder: Folder, rows: list[Row], place: Row) -> None:
    """Write the ranking: its figure is the greatest harm."""
    worst = max(rows, key=lambda row: row["harm"] or 0.0)
    found = {"value": worst["harm"], "stderr": worst["stderr"], "n": worst["n"], "unit": "metric"}
    about = {"metric": "greatest_harm", "metrics": {"greatest_harm": found}}
    about |= {"tables": {"layers": sorted(rows, key=lambda r: (r["mean_rank"], r["layer"]))}}
    about |= {"step": 0, "checkpoint": "step-00000000", "ops": {}, "wall_sec": 0.0, **place}
    Run(folder.path).write_result("convert", "layers", about)
