"""The way from a recipe to a run directory, exactly resumable."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.experiment import TrainConfig
from braidlm.arch.tasks import LMTask
from braidlm.data.lanes import LaneMixture
from braidlm.data.mixture import Mixture
from braidlm.data.prepare import check_held_out
from braidlm.data.replay import Record
from braidlm.data.streams import TextStream
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.parallel import overlapped
from braidlm.runs import Run
from braidlm.train.compile import compiled
from braidlm.train.ending import refuse_without_init
from braidlm.train.optimizer import load_optimizer_state
from braidlm.train.precision import resolve_precision
from braidlm.train.progress import Progress, Silent
from braidlm.train.recompute import recomputed
from braidlm.train.record import check_launches
from braidlm.train.resume import check_same_run
from braidlm.train.session import Batches, NonFiniteLossError, Session, Summary
from braidlm.train.start import Start, start_of
from braidlm.train.step import Place
from braidlm.train.writers import check_installed, open_writers

__all__ = ["NonFiniteLossError", "Summary", "build_mixture", "build_model", "surroundings", "train"]


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    mixture: Batches | None = None,
) -> Summary:
    """Train the recipe's model into the run directory `out`.

    SIGTERM or SIGINT lets the current update finish, writes a checkpoint and returns with state
    "interrupted". With `resume` an earlier session goes on from its newest checkpoint (or from the
    start when it has none); on a CPU with as many threads the result is the same bit for bit.

    Args:
        recipe: what to train and how.
        out: the run directory; new or empty unless `resume`.
        resume: go on with the run in `out`, if there is one.
        progress: told about every update.
        model: trained instead of a new `HybridLM(recipe.spec)` or the recipe's init; has `loss` as
            `HybridLM` has it.
        mixture: gives the batches instead of the recipe's data.

    Raises:
        InputError: `out` is in use or holds something else, its run was started with another
            recipe, its checkpoint is damaged, or the recipe's init does not fit it.
        NonFiniteLossError: the loss is nan or infinite.
        OSError: a file cannot be written; the newest checkpoint stays as it was.
    """
    out = Path(out)
    Run.check_free(out, resume=resume)
    start = start_of(recipe, out) if model is None else None
    if start is None:
        refuse_without_init(recipe)
    else:
        recipe = start.settled(recipe)
    _check_folder(out, recipe, resume)
    if out.is_dir():
        with Run(out).lock():  # refused before the data is read, and not after minutes
            pass
    check_installed(recipe.train.log_to)
    device = choose_device(recipe.train.device)
    with surroundings(recipe.train, device):
        precision = resolve_precision(recipe.train.precision, device)
        record = None if start is None else start.record(recipe)
        mixture = build_mixture(recipe, record) if mixture is None else mixture
        model = (_initial(recipe, start) if model is None else model).to(device)
        check_launches(recipe, model, device)
        with (
            compiled(model, recipe.train.compile, recipe.train.activation_budget),
            recomputed(model, recipe.train.activation_checkpointing),  # what is compiled, too
            overlapped(model, recipe.train.overlap_branches),
            _held(out),
        ):
            # Again: another process may have begun, or ended, a run here in the meantime.
            is_continued = _check_folder(out, recipe, resume)
            run = Run.open(out) if is_continued else Run.create(out, recipe.to_dict())
            if start is not None:
                start.keep(run, recipe, model)
            place = Place(device)
            first_lr = start.first_lr(recipe) if start is not None else 0.0
            session = Session(
                recipe, run, model, mixture, precision, place, progress or Silent(), first_lr
            )
            session.restore()
            if start is not None and session.step == 0:
                load_optimizer_state(session.optimizer, start.optimizer(recipe))
            run.write_config(recipe.to_dict())
            with open_writers(recipe, run) as session.writers:
                return session.run()


def _check_folder(out: Path, recipe: Recipe, resume: bool) -> bool:
    """Refuse a folder that is not ours to write; return whether it holds the run to go on with."""
    Run.check_free(out, resume=resume)
    if not (out / "config.json").is_file():
        return False
    check_same_run(Run.open(out).config, recipe, out)
    return True


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """Make the folder and hold it for writing."""
    out.mkdir(parents=True, exist_ok=True)
    with Run(out).lock():
        yield


def _initial(recipe: Recipe, start: Start | None) -> HybridLM:
    """Return the model that the training begins with."""
    if start is None:
        return build_model(recipe)
    torch.manual_seed(recipe.seed)
    return start.model(recipe.spec)


def build_model(recipe: Recipe) -> HybridLM:
    """Return the recipe's model with its initial weights, a function of the seed alone."""
    torch.manual_seed(recipe.seed)
    return HybridLM(recipe.spec)


@contextlib.contextmanager
def surroundings(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Set threads and determinism while inside; they and the random states return afterwards."""
    threads = torch.get_num_threads()
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if config.deterministic and device.type == "cuda":
        # cuBLAS reads it once, when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(
        devices=[torch.cuda.current_device()] if device.type == "cuda" else []
    ):
        try:
            torch.set_num_threads(config.threads or threads)
            if config.deterministic:
                torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(threads)
            if config.deterministic:
                torch.use_deterministic_algorithms(was_deterministic, warn_only=warned_only)


def build_mixture(recipe: Recipe, record: Record | None = None) -> Mixture:
    """Return the recipe's batches; `record` is what its init has read, for replay.

    Raises:
        InputError: data that cannot be read, tokens that the model has no embedding for, or a task
            that needs held-out documents where there are none.
    """
    size, seed = recipe.train.batch_size, recipe.seed
    if recipe.train.carry_states:
        mixture = LaneMixture(recipe.data, batch_size=size, seed=seed, verify=True)
    else:
        mixture = Mixture(recipe.data, batch_size=size, seed=seed, verify=True, record=record)
    if mixture.vocab_size > recipe.spec.vocab_size:
        raise InputError(
            f"model.vocab_size = {recipe.spec.vocab_size}: "
            f"must be at least {mixture.vocab_size}, the ids of the data"
        )
    for task in recipe.tasks:
        if isinstance(task, LMTask):  # said now, not when the training is over
            stream = mixture.rows.streams[mixture.rows.names.index(task.source)]
            assert isinstance(stream, TextStream)
            check_held_out(stream.shards, task.source)
    return mixture
