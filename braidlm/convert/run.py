"""A conversion from its declaration to a run: teacher, layers, stages, questions, a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from braidlm.arch import Recipe
from braidlm.arch.convert import Conversion
from braidlm.convert.choose import choose_layers
from braidlm.convert.folder import Folder
from braidlm.convert.stages import Clock, Stages, Timed
from braidlm.convert.table import Told, tell_stages
from braidlm.convert.target import attentions, target
from braidlm.errors import InputError
from braidlm.runs import Run
from braidlm.tasks import evaluate
from braidlm.tasks.run import TaskProgress
from braidlm.train.loop import build_mixture
from braidlm.train.progress import Progress, Silent
from braidlm.train.start import Start, is_kept


class Converted(NamedTuple):
    """How a call of `convert` ended."""

    state: str
    """"done" or "interrupted": by a signal, or by the end of its time."""
    stage: str
    """The stage that it came to: its name, or "copy"."""
    pattern: str
    """The student's."""
    table: Told | None
    """What the teacher and the student were asked; None: there is no answer yet."""


class Watchers(NamedTuple):
    """Who is told."""

    progress: Callable[[], Progress]
    """Makes who is told of one stage's training."""
    tasks: TaskProgress | None
    """Of what is asked."""
    failed: Callable[[str, InputError], None]
    """Of what cannot be asked: "<stage>: <kind>-<name>", and why."""


def convert(
    conversion: Conversion,
    start: Start,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    minutes: float | None = None,
    asks: bool = True,
    progress: Callable[[], Progress] = Silent,
    tasks: TaskProgress | None = None,
    failed: Callable[[str, InputError], None] | None = None,
) -> Converted:
    """Make a hybrid of a transformer in the folder `out`; see `convert.folder` for what is there.

    Everything is written as it ends: a call with `resume` goes on where an earlier one stopped, on
    a CPU with as many threads with the same result bit for bit.

    Args:
        conversion: what is made of what.
        start: the teacher, as `declare.load_conversion` finds it.
        out: the folder; new or empty unless `resume`.
        resume: go on with the conversion in `out`, if there is one.
        minutes: after so many nothing new begins, and a training saves and stops; None: no limit.
        asks: whether the tasks are asked.
        progress: makes, for each stage, who is told about every update.
        tasks: told how far each task is.
        failed: told what could not be asked; None: the first error is raised.

    Raises:
        InputError: a target that does not fit the teacher, data that cannot be read, or a folder
            that holds something else; nothing is written then.
        OSError: a file cannot be written.
    """
    folder, clock = Folder(Path(out), conversion), Clock(minutes)
    folder.check(resume=resume)
    _check(conversion, start)
    folder.path.mkdir(parents=True, exist_ok=True)
    with Run(folder.path).lock():
        folder.declare(start)
        folder.carry_tokenizer()
        if not is_kept(folder.path):
            folder.write_untrained(
                folder.teacher, _of_teacher(folder.conversion, start), start.model(), start.origin
            )
        told = Watchers(progress, tasks, failed or _raise)
        run = folder.open(_of_teacher(folder.conversion, start))
        try:
            kept = choose_layers(folder, tasks)
            stages = Stages(folder, target(start.spec, conversion.convert, kept))
            run.write_config(stages.last_recipe.to_dict())
            made = _made(stages, clock, told, asks)
        except BaseException as error:
            run.set_status("failed", 0, 0, f"{type(error).__name__}: {error}")
            raise
        if made.state != "done":
            run.set_status("interrupted", 0, 0)
        return made


def _check(conversion: Conversion, start: Start) -> None:
    """Refuse what could only fail later: every stage's recipe, the target, the text."""
    config = conversion.convert
    n = len(attentions(start.spec))
    if config.keep is not None and config.keep > n:
        raise InputError(
            f"convert.keep = {config.keep}: must be at most {n}, the teacher's attentions"
        )
    spec = target(start.spec, config, range(config.keep or 0)).spec
    for number in range(len(config.stages) + 1):
        recipe = conversion.recipe(spec, number)
    if config.keep is not None and not conversion.tasks:
        raise InputError("convert.keep: layers are chosen by tasks: declare some, or keep_layers")
    names = [task.name for task in conversion.tasks]
    for name in config.choose.tasks:
        if name not in names:
            allowed = ", ".join(names)
            raise InputError(f"convert.choose.tasks: '{name}' is no task; allowed: {allowed}")
    build_mixture(recipe)


def _of_teacher(conversion: Conversion, start: Start) -> Recipe:
    recipe = conversion.recipe(start.spec)
    return recipe.model_copy(update={"name": f"{conversion.name} teacher"})


def _made(stages: Stages, clock: Clock, told: Watchers, asks: bool) -> Converted:
    """Go through the stages as far as the time reaches."""
    folder, pattern = stages.folder, stages.target.spec.pattern
    labels = ["copy", *(stage.label for stage in folder.conversion.convert.stages)]
    for number, label in enumerate(labels):
        if clock.is_over:
            return Converted("interrupted", label, pattern, None)
        if number == 0:
            stages.copy()
        else:
            summary = stages.run(number, Timed(told.progress(), clock))
            if summary is not None and summary.state != "done":
                return Converted("interrupted", label, pattern, None)
    stages.finish()
    if asks and folder.conversion.tasks:
        places = [("teacher", folder.teacher), *zip(labels, folder.stages, strict=True)]
        for label, path in places:
            if clock.is_over:
                return Converted("interrupted", labels[-1], pattern, None)
            _ask(label, path, told)
        stages.copy_results()
    return Converted("done", labels[-1], pattern, tell_stages(folder))


def _ask(label: str, path: Path, told: Watchers) -> None:
    """Ask one run all tasks; what is measured already is not asked again."""
    evaluate(
        path,
        progress=told.tasks,
        failed=lambda task, error: told.failed(f"{label}: {task}", error),
    )


def _raise(task: str, error: InputError) -> None:
    raise error
