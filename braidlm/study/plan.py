"""The runs of a study: what each trains, the command that does it, and what of it is done."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braidlm.arch import Recipe
from braidlm.arch.recipe import differences
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.study.config import StudyConfig

FREE_FIELDS = frozenset(
    {
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "data.cache_dir",
    }
)
"""What may change between two sessions of a study: nothing that changes a number."""


@dataclass
class Job:
    """One run of one arm."""

    name: str
    arm: str
    folder: Path
    recipe: Recipe
    command: list[str]
    """Arguments of `braid`."""
    state: str = "waiting"
    error: str | None = None
    pid: int | None = None

    @property
    def log(self) -> Path:
        """What its processes write to standard error."""
        return self.folder.with_name(f"{self.folder.name}.log")


def plan(config: StudyConfig, folder: Path, out: Path) -> list[Job]:
    """List the runs, all arms of one seed before the next seed; their commands are still empty.

    `folder` is where the recipe's path starts.

    Raises:
        InputError: naming the arm whose recipe cannot be.
    """
    return [
        Job(
            name=f"{arm.name}/seed-{seed}",
            arm=arm.name,
            folder=out / arm.name / f"seed-{seed}",
            recipe=config.recipe_of(arm, seed, folder),
            command=[],
        )
        for seed in config.seeds
        for arm in config.arms
    ]


def fill_commands(jobs: list[Job], config: StudyConfig, folder: Path, n_threads: int) -> None:
    """Give every job its command, and its recipe the threads of its share.

    The number of threads is a part of the command: another number rounds sums otherwise, and
    the weights would differ in their last bits.
    """
    arms = {arm.name: arm for arm in config.arms}
    for job in jobs:
        overrides = list(config.overrides(arms[job.arm], job.recipe.seed))
        if job.recipe.train.threads == 0:
            overrides.append(f"train.threads={n_threads}")
        path = folder / config.recipe
        job.recipe = Recipe.load(path, overrides)
        job.command = ["train", str(path), "--out", str(job.folder)]
        for text in overrides:
            job.command += ["--set", text]
        if not job.recipe.tasks:
            job.command.append("--no-eval")


def is_done(job: Job) -> bool:
    """Whether a run has trained to its end and has every result of its recipe, of that end."""
    steps = job.recipe.train.steps
    with suppress(InputError, OSError, AttributeError):
        status = read_json(job.folder / "status.json")
        return (status.get("state"), status.get("step")) == ("done", steps) and all(
            _holds(job.folder, task, steps) for task in job.recipe.to_dict().get("tasks", [])
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
                raise InputError(
                    f"arm '{job.arm}': {path} = {new!r}, but its run in {job.folder} was started "
                    f"with {old!r}; choose a new --out, or put the earlier value back"
                )
