"""How the run ended whose weights a training begins with, as far as that is known.

    {"step": 500, "steps": 1000, "lr": 3e-4, "loss": 2.31, "optimizer": "adamw"}

`lr` is that of the last update, `loss` its batch's in nats per target token. Of weights that were
not trained here nothing is known; `loss` is null where the metrics have no row of that update.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.arch.experiment import TrainConfig
from braidlm.arch.replay import REPLAY
from braidlm.data.replay import Record
from braidlm.errors import InputError
from braidlm.manifest import TRAIN_STATE
from braidlm.runs import Run
from braidlm.train.schedule import learning_rate

ENDED, TRAINED = "ended_with", "trained_on"


def ending(recipe: Recipe, run: Path, step: int) -> dict[str, Any] | None:
    """Return how a run stood after `step` updates.

    Args:
        recipe: as the run's checkpoint has it.
        run: the run's folder, or what is left of it.
        step: of the checkpoint; 0 means weights that were put there untrained by us.
    """
    if step == 0:
        return None
    config = recipe.train
    before = Run(run).origin
    return {
        "step": step,
        "steps": config.steps,
        "lr": _last_rate(config, before, step),
        "loss": _last_loss(run, step),
        "optimizer": config.optimizer,
    }


def trained_on(recipe: Recipe, run: Path, folder: Path, step: int) -> dict[str, Any] | None:
    """Return what a run had read after `step` updates, as `Record.plain` has it.

    None where that cannot be read again: weights that were put there, or lanes of documents.
    """
    if step == 0 or recipe.train.carry_states:
        return None
    has_state = (folder / TRAIN_STATE).is_file()
    state = checkpoint.load_train_state(folder, lazily=True) if has_state else {}
    before = Run(run).origin.get(TRAINED) if recipe.data.replay is not None else None
    if recipe.data.replay is not None and before is None:
        return None
    corpora = {k: v for k, v in state.get("corpora", {}).items() if not k.startswith(f"{REPLAY}/")}
    n_rows = step * recipe.train.batch_size
    earlier = None if before is None else Record.of(before)
    return Record(recipe.data, recipe.seed, n_rows, corpora, earlier).plain()


def record_of(recipe: Recipe, origin: dict[str, Any], init: str) -> Record | None:
    """Return the rows that a recipe replays; None if it does not.

    Raises:
        InputError: nobody knows them, or they cannot be replayed in rows of this length.
    """
    replay = recipe.data.replay
    if replay is None:
        return None
    found = origin.get(TRAINED)
    if found is None:
        raise InputError(
            f"data.replay.fraction = {replay.fraction}: init = '{init}' does not say on which rows "
            "it was trained; allowed: a run that was trained here"
        )
    record = Record.of(found)
    record.check(replay, recipe.data.seq_len)
    return record.read_with(recipe.data.tokenizer)


def first_rate(config: TrainConfig, origin: dict[str, Any], init: str) -> float:
    """Return the learning rate from which a run's warm-up begins.

    Raises:
        InputError: it is to be that of its init, and nobody knows with which the init ended.
    """
    if config.warmup_from == "zero":
        return 0.0
    found = (origin.get(ENDED) or {}).get("lr")
    if not isinstance(found, float):
        raise InputError(
            f"train.warmup_from = 'init': the learning rate with which init = '{init}' ended is "
            "not known, it was not trained here; allowed: 'zero'"
        )
    return found


def optimizer_of(folder: Path, config: TrainConfig, origin: dict[str, Any], init: str) -> bool:
    """Whether the optimizer's state of an init is to be taken over; it is there then.

    Raises:
        InputError: it is to be, and there is none or that of another optimizer.
    """
    if not config.continue_optimizer:
        return False
    where = f"train.continue_optimizer = true: init = '{init}'"
    if not (folder / TRAIN_STATE).is_file():
        raise InputError(f"{where} has no state of an optimizer ({TRAIN_STATE})")
    theirs = (origin.get(ENDED) or {}).get("optimizer")
    if theirs != config.optimizer:
        raise InputError(
            f"{where} has the state of '{theirs}': train.optimizer = '{config.optimizer}' "
            "must be the same"
        )
    return True


def refuse_without_init(recipe: Recipe) -> None:
    """Refuse what a training can only take over from an init, where it has none.

    Raises:
        InputError: naming the field.
    """
    asked = {
        "train.warmup_from = 'init'": recipe.train.warmup_from == "init",
        "train.continue_optimizer = true": recipe.train.continue_optimizer,
        "[data.replay]": recipe.data.replay is not None,
        "[init_changes]": recipe.init_changes is not None,
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise InputError(f'{field}: needs an init (braid train --init DIR, or init = "DIR")')


def _last_rate(config: TrainConfig, before: dict[str, Any], step: int) -> float | None:
    if not 1 <= step <= config.steps:
        return None
    try:
        return learning_rate(step, config, first_rate(config, before, ""))
    except InputError:  # a checkpoint that was copied out of its run
        is_known = step > config.warmup_steps
        return learning_rate(step, config) if is_known else None


def _last_loss(run: Path, step: int) -> float | None:
    rows = Run(run).metrics() if run.is_dir() else []
    found = next((row.get("loss") for row in reversed(rows) if row.get("step") == step), None)
    return found if isinstance(found, float) else None
