"""From a run directory to result files: load a checkpoint, run the tasks, write the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from braidlm.arch.tasks import AnyTask
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.generate.mode import choose_dtype
from braidlm.tasks.asked import Asked, UnusableError
from braidlm.tasks.choose import choose_tasks, limited, stem_of, with_data, with_lengths, with_tasks
from braidlm.tasks.families import make_ready
from braidlm.tasks.opening import choose_checkpoint, open_run

TaskProgress = Callable[[str, int, int], None]
"""Called with ("<kind>-<name>", items done, items in all)."""


def evaluate(
    run_dir: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    checkpoint: str | None = None,
    progress: TaskProgress | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    tasks_file: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    kept: Callable[[str], None] | None = None,
    lengths: Sequence[int] = (),
    data: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    failed: Callable[[str, InputError], None] | None = None,
) -> list[dict[str, Any]]:
    """Run a recipe's tasks on a run's checkpoint, and write ``results/<kind>-<name>.json``.

    A task whose result is there already, from the same items, weights, device, dtype and code
    version, is not asked again. One that was interrupted goes on after its last whole batch.
    One that cannot be asked keeps no other from being asked.

    Args:
        run_dir: the run directory.
        tasks: which ones, see `choose_tasks`; None: all.
        checkpoint: name of a folder in the run's ``checkpoints``, or None for the newest.
        progress: told how far each task is.
        device: "auto", "cpu" or "cuda"; None: the recipe's.
        dtype: "fp32" or "bf16"; None: fp32 on a CPU, as trained on a GPU.
        limit: documents or items at most. Such a quick look replaces no result: nothing is written.
        tasks_file: a TOML file with more tasks, see `with_tasks`.
        overrides: such as ``tasks.recall.n_items=50``, see `with_tasks`.
        force: ask again whatever is there.
        kept: told "<kind>-<name>" of every result that is not measured again.
        lengths: replace those of every task that has a field of this name.
        data: a folder with the files of data sets, for every task of real documents.
        batch_size: items that are scored together at most; None: as many as each task takes.
        failed: told "<kind>-<name>" and why of every task that could not be asked; None: the
            first of these is raised when all others are asked.

    Returns:
        The result files' contents in the order of the recipe, without tasks that failed; with
        `limit` the measured part alone.

    Raises:
        InputError: no run, no such task or checkpoint, a damaged checkpoint, a task that its
            source cannot serve, or one that another process is measuring now.
        OSError: a result cannot be written.
    """
    run = open_run(run_dir)
    recipe, added = with_tasks(run, tasks_file, overrides, tasks)
    names = tasks if tasks is not None or not added else added
    chosen = [limited(task, limit) for task in choose_tasks(recipe, names)]
    chosen = with_data(with_lengths(chosen, lengths), data)
    place = choose_device(device or recipe.train.device)
    precision = choose_dtype(dtype, place, recipe.train.precision)
    folder = choose_checkpoint(run, checkpoint)
    asked = Asked(run, recipe, folder, place, precision, batch_size)
    how = _How(limit is not None, force, progress, kept)
    found, errors = [], []
    for task in chosen:
        try:
            found.append(_answered(asked, task, how))
        except UnusableError:
            raise
        except InputError as error:
            errors.append(error)
            if failed is not None:
                failed(stem_of(task), error)
    if errors and failed is None:
        raise errors[0]
    return found


class _How(NamedTuple):
    """What is done with results, and who is told."""

    is_look: bool
    force: bool
    progress: TaskProgress | None
    kept: Callable[[str], None] | None


def _answered(asked: Asked, task: AnyTask, how: _How) -> dict[str, Any]:
    """Return the result of one task, measured now or earlier."""
    stem = stem_of(task)

    def tell(done: int, total: int) -> None:
        if how.progress is not None:
            how.progress(stem, done, total)

    if how.is_look:
        return asked.look(task, tell)
    work = make_ready(task, lambda: asked.tokenizer, asked.recipe)
    with asked.run.measuring(task.kind, task.name):
        result = None if how.force else asked.earlier(task, work)
        if result is None:
            return asked.measure(task, work, tell, force=how.force)
        if how.kept is not None:
            how.kept(stem)
        return result
