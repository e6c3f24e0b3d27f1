"""The way from a declaration or a run to measured rows and result files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.arch.recipe import load_declaration, override
from braidlm.bench import peers
from braidlm.bench.ceiling import Ceiling, Probe, Sizes
from braidlm.bench.contender import Library, Setting
from braidlm.bench.measure import Mode, Told
from braidlm.bench.memory import meter_of
from braidlm.bench.ours import library
from braidlm.bench.plan import Plan
from braidlm.bench.result import write
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.provenance import capture_env
from braidlm.runs import Run
from braidlm.train.loop import build_model, surroundings
from braidlm.train.precision import resolve_precision

DATA = {"sources": [{"kind": "text", "path": "python-docs"}]}
"""Of a declaration that holds no data: it is never read, the tokens are random."""


@dataclass(frozen=True)
class Opened:
    """What is measured."""

    recipe: Recipe
    build: Callable[[torch.device], HybridLM]
    """Gives the model in fp32, the same each time."""
    run: Run | None
    """Where results go; None: nowhere."""
    checkpoint: str | None = None
    """Name of the weights; None: they were drawn from the seed."""
    step: int = 0
    """Updates behind them."""


@dataclass
class Outcome:
    """All that was measured."""

    about: dict[str, Any]
    """Device, versions, threads, seed, precision, how memory is counted."""
    modes: list[Mode] = field(default_factory=list)
    """With their rows, in order."""
    is_interrupted: bool = False
    files: list[Path] = field(default_factory=list)
    """Result files, in order."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every row of every mode."""
        return [row for mode in self.modes for row in mode.rows]

    @property
    def ceilings(self) -> dict[str, Ceiling]:
        """What the device reached, by dtype, over all points."""
        found: dict[str, Ceiling] = {}
        for one in (one for mode in self.modes for one in mode.ceilings):
            found[one.dtype] = found[one.dtype] + one if one.dtype in found else one
        return found

    @property
    def faults(self) -> list[str]:
        """Where the declaration predicts other bytes, or parameters, than there are."""
        found = [fault for mode in self.modes for fault in mode.faults]
        return list(dict.fromkeys(found))


def bench(
    source: str | os.PathLike[str],
    plan: Plan,
    *,
    out: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    told: Told = lambda row: None,
    sizes: Sizes | None = None,
    libraries: Sequence[Library] | None = None,
) -> Outcome:
    """Measure a model's speed and memory beside what its declaration predicts.

    Args:
        source: a recipe, a file that declares a model, a pattern, or a run.
        plan: what is measured, and how often.
        out: a folder for the results; None: those of a run go into it, others nowhere.
        overrides: as for `Recipe.load`; not of a run.
        told: called with each row as it is known.
        sizes: of the ceiling's operands; None: those of the device's kind.
        libraries: of the peers; None: all that are known.

    Returns:
        What was measured until the end, or until Ctrl-C.

    Raises:
        InputError: a field of the plan, a source or a folder that cannot be used, or peers that
            are asked for where none is installed.
    """
    opened = _opened(source, plan, overrides, out)
    others = peers.LIBRARIES if libraries is None else tuple(libraries)
    if plan.with_peers and not any(other.is_installed() for other in others):
        names = ", ".join(other.name for other in others)
        raise InputError(f"--peers: none of the other libraries is installed ({names})")
    device = choose_device(plan.device)
    train = opened.recipe.train.model_copy(update={"threads": plan.threads})
    with surroundings(train, device):
        setting = _setting(opened.recipe, plan, device)
        outcome = Outcome(_about(setting))
        began = time.perf_counter()
        try:
            contenders = (library(opened.build), *(others if plan.with_peers else ()))
            _measure(setting, contenders, outcome, told, sizes)
        except KeyboardInterrupt:
            outcome.is_interrupted = True
        wall_sec = time.perf_counter() - began
    if opened.run is not None:
        outcome.files = write(opened.run, outcome, opened.checkpoint, opened.step, wall_sec)
    return outcome


def _measure(
    setting: Setting,
    libraries: Sequence[Library],
    outcome: Outcome,
    told: Told,
    sizes: Sizes | None,
) -> None:
    """Run one mode after the other; each is part of the outcome before it begins."""
    for name in setting.plan.modes:
        dtype = setting.training_dtype if name == "train" else setting.answering_dtype
        mode = Mode(name, setting, libraries, Probe(setting.device, dtype, sizes), told)
        outcome.modes.append(mode)
        mode.run()


def _setting(recipe: Recipe, plan: Plan, device: torch.device) -> Setting:
    """Resolve the precisions: what training and answering run in."""
    training = resolve_precision(plan.dtype or recipe.train.precision, device)
    answering = plan.dtype or ("bf16" if device.type == "cuda" else "fp32")
    return Setting(recipe, plan, device, training.name, answering)


def _about(setting: Setting) -> dict[str, Any]:
    """Return what the figures depend on besides the model."""
    plan, device = setting.plan, setting.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    env = capture_env(threads=torch.get_num_threads(), device=device.type)
    return {
        "device": device.type,
        "device_name": name or env["cpu"],
        "threads": env["threads"],
        "torch": torch.__version__,
        "packages": env["packages"],
        "code_version": env["code_version"],
        "command": env["command"],
        "seed": plan.seed,
        "repeats": plan.repeats,
        "warmups": plan.warmups,
        "new_tokens": plan.new_tokens,
        "memory": meter_of(device).how,
    }


def _opened(
    source: str | os.PathLike[str],
    plan: Plan,
    overrides: Sequence[str],
    out: str | os.PathLike[str] | None,
) -> Opened:
    """Find out what is to be measured, and where its results go."""
    path = Path(source)
    if path.is_dir() and (path / "config.json").is_file():
        return _of_run(path, overrides, out)
    if (path.suffix == "" and "/" in str(source)) or path.is_dir():
        Run.open(path)  # says what is missing
    # A file that declares a model alone has no training to change: it gets the plain one first.
    training = [change for change in overrides if change.startswith("train.")]
    declared = load_declaration(str(source), [c for c in overrides if c not in training])
    recipe = _recipe(override(declared.to_dict(), training))
    run = None
    if out is not None:
        is_same = (Path(out) / "config.json").is_file() and Run(out).config == recipe.to_dict()
        run = Run.create(out, recipe.to_dict(), resume=is_same)
        run.set_status("done", 0, 0)  # a folder of speeds alone: nothing is to be trained
        run.write_env(capture_env(threads=plan.threads or None, device=plan.device))
    return Opened(recipe, lambda device: _drawn(recipe, device), run)


def _drawn(recipe: Recipe, device: torch.device) -> HybridLM:
    """Draw the weights where they are needed: a host takes longer for it than the measurement."""
    with device:
        return build_model(recipe)


def _of_run(path: Path, overrides: Sequence[str], out: str | os.PathLike[str] | None) -> Opened:
    """A run is measured as it is, with its newest weights if it has any."""
    if overrides or out is not None:
        flag = "--set" if overrides else "--out"
        raise InputError(f"{flag}: {path} is a run: it is measured as it is, into its own results")
    run = Run.open(path)
    recipe = _recipe(run.config)
    if not checkpoint.checkpoints(path):
        return Opened(recipe, lambda device: _drawn(recipe, device), run)
    newest = checkpoint.latest(path)
    step = checkpoint.verify(newest)["step"]
    return Opened(
        recipe, lambda device: checkpoint.load_model(newest, device)[0], run, newest.name, step
    )


def _recipe(declared: dict[str, Any]) -> Recipe:
    return Recipe.from_dict({"data": DATA, **declared})
