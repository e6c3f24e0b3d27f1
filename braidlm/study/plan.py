"""The runs of a study: what each trains, the command that does it, and what of it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braidlm.arch import Recipe
from braidlm.arch.config import differences, nearest
from braidlm.arch.experiment import FileSource
from braidlm.arch.init_changes import changed
from braidlm.arch.sources import HUB, RUN
from braidlm.data.corpora import PYTHON_DOCS
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.study.config import Arm, Base, Keep, StudyConfig

FREE_FIELDS = frozenset(
    {
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "data.cache_dir",
    }
)
"""What may change between two sessions of a study: nothing that changes a number."""

BUILT_IN = ("bytes", PYTHON_DOCS)
"""A tokenizer and a text that need no file."""


@dataclass
class Job:
    """One run of one arm, or of a base that arms start from."""

    name: str
    arm: str
    folder: Path
    recipe: Recipe
    command: list[str]
    """Arguments of `braid`."""
    after: Job | None = None
    """The run that trains its base; it starts when that is done."""
    init: str | None = None
    """Whose weights it begins with."""
    asks_before: bool = False
    """Whether it asks its initial weights the tasks too, for every arm of their base."""
    keep: Keep = "all"
    """Which of its weights stay when it is done."""
    state: str = "waiting"
    error: str | None = None
    pid: int | None = None

    is_base: bool = False

    @property
    def log(self) -> Path:
        """What its processes write to standard error."""
        return self.folder.with_name(f"{self.folder.name}.log")


def plan(config: StudyConfig, folder: Path, out: Path) -> list[Job]:
    """List the runs, all of one seed before the next seed, bases first; commands are still empty.

    Args:
        config: the study, settled: every arm has one base or none.
        folder: where its recipes' paths start.
        out: the study's folder.

    Raises:
        InputError: naming the arm or the base whose recipe cannot be.
    """
    jobs = []
    asked: set[tuple[str, int]] = set()
    for seed in config.seeds:
        bases = {
            base.name: _job(config, base, seed, folder, out)
            for base in config.bases
            if base.recipe is not None
        }
        given = {base.name: str(folder / base.init) for base in config.bases if base.init}
        jobs += bases.values()
        for arm in config.arms:
            job = _job(config, arm, seed, folder, out)
            job.keep = config.keep
            for name in config.bases_of(arm):
                job.after = bases.get(name)
                job.init = str(job.after.folder) if job.after else given[name]
                # What is given is the same for every seed, and so is what it answers.
                once = (name, seed if job.after else config.seeds[0])
                job.asks_before = bool(job.recipe.tasks) and once not in asked
                asked.add(once)
            jobs.append(job)
    return jobs


def _job(config: StudyConfig, part: Arm | Base, seed: int, folder: Path, out: Path) -> Job:
    return Job(
        name=f"{part.name}/seed-{seed}",
        arm=part.name,
        folder=out / part.name / f"seed-{seed}",
        recipe=_changed(config.recipe_of(part, seed, folder), part.name),
        command=[],
        is_base=isinstance(part, Base),
    )


def check_outcomes(config: StudyConfig, jobs: Sequence[Job]) -> None:
    """Refuse an outcome that no arm is asked.

    Raises:
        InputError: naming it and the tasks that there are.
    """
    known = list(
        dict.fromkeys(
            f"{t.kind}-{t.name}" for job in jobs if not job.is_base for t in job.recipe.tasks
        )
    )
    for name in config.outcomes:
        stem = name.partition(":")[0]
        if stem not in known:
            allowed = ", ".join(known) or "no task is asked"
            raise InputError(
                f"outcomes: '{name}' is no task of an arm{nearest(stem, known)}; allowed: {allowed}"
            )


def check_files(jobs: Sequence[Job]) -> None:
    """Refuse a study whose runs would end for want of a text or a tokenizer.

    Raises:
        InputError: naming the arm or the base, the field and the path that is not there.
    """
    for job in jobs:
        for field, path in () if is_done(job) else _paths(job.recipe):
            if not path.startswith((HUB, RUN)) and path not in BUILT_IN and not Path(path).exists():
                raise InputError(
                    f"{'base' if job.is_base else 'arm'} '{job.arm}': {field} = '{path}' is not "
                    f"there, seen from {Path.cwd()}; the head of a recipe says what makes its files"
                )


def _paths(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "data.tokenizer", recipe.data.tokenizer
    for number, source in enumerate(recipe.data.sources):
        if isinstance(source, FileSource):
            yield f"data.sources.{number}.path", source.path


def _changed(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe with the model that is trained, after what it changes in its base's.

    Raises:
        InputError: naming the arm whose changes do not fit its model.
    """
    try:
        spec = changed(recipe.spec, recipe.init_changes)
    except InputError as error:
        raise InputError(f"arm '{name}': {error}") from None
    return recipe.model_copy(update={"spec": spec})


def fill_commands(jobs: list[Job], config: StudyConfig, folder: Path, n_threads: int) -> None:
    """Give every job its command, and its recipe the threads of its share.

    The number of threads is a part of the command: another number rounds sums otherwise, and
    the weights would differ in their last bits.
    """
    parts = {part.name: part for part in (*config.bases, *config.arms)}
    for job in jobs:
        part = parts[job.arm]
        overrides = list(config.overrides(part, job.recipe.seed))
        if job.recipe.train.threads == 0:
            overrides.append(f"train.threads={n_threads}")
        path = config.path_of(part, folder)
        job.recipe = _changed(Recipe.load(path, overrides), part.name)
        job.command = ["train", str(path), "--out", str(job.folder)]
        if job.init is not None:
            job.command += ["--init", job.init]
        for text in overrides:
            job.command += ["--set", text]
        if not job.recipe.tasks:
            job.command.append("--no-eval")
        elif job.init is not None and not job.asks_before:
            job.command.append("--no-before")


def is_done(job: Job) -> bool:
    """Whether a run has trained to its end and has every result of its recipe, of that end."""
    steps = job.recipe.train.steps
    asked = [(job.folder, steps)] + ([(job.folder / "init", 0)] if job.asks_before else [])
    with suppress(InputError, OSError, AttributeError):
        status = read_json(job.folder / "status.json")
        return (status.get("state"), status.get("step")) == ("done", steps) and all(
            _holds(folder, task, step)
            for task in job.recipe.to_dict().get("tasks", [])
            for folder, step in asked
        )
    return False


def _holds(folder: Path, task: dict[str, Any], step: int) -> bool:
    """Whether the result of a task is there, as the recipe asks for it now."""
    result = read_json(folder / "results" / f"{task['kind']}-{task['name']}.json")
    return result.get("step") == step and task in result.get("config", {}).get("tasks", [])


def share_left(job: Job) -> float:
    """Return which share of a run's steps is still to be trained, by its newest status."""
    with suppress(InputError, OSError, AttributeError, TypeError):
        step = read_json(job.folder / "status.json").get("step", 0)
        return max(0.0, 1 - step / job.recipe.train.steps)
    return 1.0


def check_unchanged(job: Job) -> None:
    """Refuse to go on with a run that was started with another recipe.

    Raises:
        InputError: naming the arm and the first field that differs.
    """
    if not (job.folder / "config.json").is_file():
        return
    stored = read_json(job.folder / "config.json")
    before = Recipe.from_dict(stored, f"{job.folder}/config.json").to_dict()
    now = job.recipe.to_dict()
    for part in ("model", "data", "train"):
        for path, old, new in differences(before.get(part), now.get(part), part):
            if path not in FREE_FIELDS:
                what = "base" if job.is_base else "arm"
                raise InputError(
                    f"{what} '{job.arm}': {path} = {new!r}, but its run in {job.folder} was "
                    f"started with {old!r}; choose a new --out, or put the earlier value back"
                )
