"""One session of training: the loop itself, what it counts, logs and keeps."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.data.lanes import LaneMixture
from braidlm.data.mixture import Mixture
from braidlm.errors import InputError
from braidlm.manifest import TRAIN_STATE, verify
from braidlm.model import HybridLM
from braidlm.runs import Run, capture_env
from braidlm.tensors import write_torch
from braidlm.train.carry import Carry
from braidlm.train.optimizer import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from braidlm.train.precision import Precision
from braidlm.train.progress import Progress
from braidlm.train.record import Recorder
from braidlm.train.resume import random_states, set_random_states
from braidlm.train.routers import Routers
from braidlm.train.schedule import learning_rate
from braidlm.train.signals import StopRequest
from braidlm.train.step import IGNORED, Batch, Place, accumulate, micro_slices, rows_of
from braidlm.train.tally import Tally
from braidlm.train.telemetry import Telemetry
from braidlm.train.window import Window
from braidlm.train.writers import Writer, numbers


class Batches(Protocol):
    """What the loop needs of the data: a pure function of the step (0-based)."""

    def batch(self, step: int) -> Any:
        """Return the rows of one optimizer step: a `Batch` with n_tokens and source_counts."""
        ...


@dataclass(frozen=True)
class Summary:
    """How a call of `train` ended."""

    step: int
    """Updates done, earlier sessions included."""
    loss: float | None
    """Loss of the last update in nats per target token; None before any."""
    tokens: int
    """Tokens seen, earlier sessions included."""
    wall_sec: float
    """Time in the loop, earlier sessions included."""
    state: str
    """"done" or "interrupted"."""


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient is not a number; the weights are those before the update."""

    def __init__(self, step: int, loss: float, grad_norm: float, file: Path) -> None:
        super().__init__(
            f"step {step}: loss = {loss}, gradient norm = {grad_norm}; "
            f"nothing was updated and the batch is in {file}"
        )
        self.step, self.loss, self.grad_norm, self.file = step, loss, grad_norm, file


class Session:
    """A model, its optimizer and its data, from one start of the program to its end."""

    def __init__(
        self,
        recipe: Recipe,
        directory: Run,
        model: nn.Module,
        mixture: Batches,
        precision: Precision,
        place: Place,
        progress: Progress,
        first_lr: float = 0.0,
    ) -> None:
        self.first_lr = first_lr
        self.recipe, self.config, self.directory = recipe, recipe.train, directory
        self.model, self.mixture = model, mixture
        self.corpora = mixture.corpora if isinstance(mixture, Mixture) else {}
        self.tells_sources = isinstance(mixture, Mixture) and recipe.data.replay is not None
        self.precision, self.place, self.progress = precision, place, progress
        self.optimizer = build_optimizer(model, recipe.train, recipe.spec.width_ratio)
        self.routers = Routers(model)
        self.carry = self._carry(model) if recipe.train.carry_states else None
        is_recorded = recipe.train.cuda_graph
        self.recorder = Recorder(model, precision, place.device) if is_recorded else None
        self.writers: list[Writer] = []
        self.telemetry = Telemetry(model, recipe.train.telemetry_every)
        self.step = self.tokens = 0
        self.loss: float | None = None
        self.tally = Tally()
        self.unique = getattr(mixture, "unique_tokens", None)
        self.checkpointed: int | None = None
        self.earlier_sec = 0.0
        self.began = self.window_began = time.perf_counter()
        self.window_tokens = 0
        self.window = Window()

    def _carry(self, model: nn.Module) -> Carry:
        if not isinstance(model, HybridLM) or not isinstance(self.mixture, LaneMixture):
            raise InputError(
                "train.carry_states = true: needs the recipe's own model and data, or a HybridLM "
                "and a LaneMixture"
            )
        kv_tokens = self.config.carry_kv_tokens
        return Carry(model, kv_tokens if isinstance(kv_tokens, int) else None)

    # a session

    def run(self) -> Summary:
        """Train until the last step or a signal; what ends it is in `status.json` either way.

        Raises:
            NonFiniteLossError: the loss or the gradient is not a number.
            OSError: a file cannot be written.
        """
        state = "failed"
        self._describe()
        self.progress.start(self.recipe.name, self.step, self.config.steps)
        try:
            with StopRequest() as stop:
                state = self._updates(stop)
            self._status(state)
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            # A full disk must not hide what went wrong first.
            with contextlib.suppress(OSError):
                self._status(state, f"{type(error).__name__}: {error}")
            raise
        finally:
            self.progress.close(state)
        return Summary(self.step, self.loss, self.tokens, self._wall_sec(), state)

    def _updates(self, stop: StopRequest) -> str:
        self.model.train()
        self._status("running")
        self.began = self.window_began = time.perf_counter()
        while self.step < self.config.steps and stop.signal_name is None:
            self.update()
            if self.step % self.config.checkpoint_every == 0:
                self._checkpoint()
        if self.checkpointed != self.step:
            self._checkpoint()
        return "done" if self.step == self.config.steps else "interrupted"

    def _status(self, state: str, error: str | None = None) -> None:
        self.directory.set_status(state, self.step, self.config.steps, error)

    def _wall_sec(self) -> float:
        return self.earlier_sec + time.perf_counter() - self.began

    def _describe(self) -> None:
        env = capture_env(
            threads=torch.get_num_threads(),
            device=str(self.place.device),
            precision=self.precision.reason,
        )
        self.directory.write_env(env)

    # an update

    def update(self) -> None:
        """Make one update of the weights and tell of it."""
        batch = self.mixture.batch(self.step)
        lr = learning_rate(self.step + 1, self.config, self.first_lr)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad()
        loss, grad_norm = self._gradients(batch)
        self.optimizer.step()
        self.routers.balance()
        self.step += 1
        told = self._told()
        self.loss = loss
        self.window.add(loss)
        self.tokens += batch.n_tokens
        self.window_tokens += batch.n_tokens
        self.tally.add(batch)
        is_logged = self.step % self.config.log_every == 0
        if is_logged or told or self.step in (1, self.config.steps):
            self._log(lr, grad_norm, told)
        self.progress.update(self.step, loss, batch.n_tokens)

    def _gradients(self, batch: Any) -> tuple[float, float]:
        """Leave clipped gradients in the model; return the loss and their norm before clipping.

        Raises:
            NonFiniteLossError: one of the two is nan or infinite.
        """
        by_row = torch.zeros(len(batch.tokens)) if self.tells_sources else None
        total = accumulate(
            self.model,
            batch,
            self.config.micro_batch_size,
            self.precision,
            self.place,
            self.recipe.seed,
            self.step,
            self.routers,
            by_row,
            self.carry,
            self.recorder,
        )
        if by_row is not None:
            n_targets = (batch.targets != IGNORED).sum(1)
            self.window.add_rows(batch.row_sources, by_row, n_targets)
        self._watch(batch)
        limit = self.config.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        loss, grad_norm = torch.stack((total, norm.to(total))).tolist()
        if not (abs(loss) < float("inf") and grad_norm < float("inf")):
            raise NonFiniteLossError(
                self.step + 1, loss, grad_norm, self._save_batch(batch, loss, grad_norm)
            )
        return loss, grad_norm

    def _save_batch(self, batch: Batch, loss: float, grad_norm: float) -> Path:
        path = self.directory.path / "failed_batch.pt"
        segments = batch.segments
        content = {
            "step": self.step + 1,
            "loss": loss,
            "grad_norm": grad_norm,
            "tokens": batch.tokens,
            "targets": batch.targets,
            "doc": None if segments is None else segments.doc,
        }
        write_torch(path, content)
        return path

    def _watch(self, batch: Batch) -> None:
        """Look at an update that is due before it happens; speed is told without this time."""
        if self.telemetry.is_due(self.step + 1):
            began, place = time.perf_counter(), self.place
            n_rows, size = batch.tokens.shape[0], self.config.micro_batch_size
            first = micro_slices(n_rows, size, place.rank, place.world)[0]
            tokens, _, segments = rows_of(batch, first, place.device)
            with self.precision.autocast():
                self.telemetry.before_update(tokens, segments)
            self.window_began += time.perf_counter() - began

    def _told(self) -> dict[str, Any]:
        """Return what there is to tell of the update just made, {} if it was not watched."""
        if not self.telemetry.is_due(self.step):
            return {}
        began = time.perf_counter()
        told = {"telemetry": self.telemetry.after_update()}
        self.window_began += time.perf_counter() - began
        return told

    def _log(self, lr: float, grad_norm: float, told: dict[str, Any]) -> None:
        moment = time.perf_counter()
        window_sec = max(moment - self.window_began, 1e-9)
        row = {
            "step": self.step,
            "loss": self.loss,
            **self.window.told(),
            "lr": lr,
            "grad_norm": grad_norm,
            **self.routers.told(),
            "tokens": self.tokens,
            "tokens_per_sec": self.window_tokens / window_sec,
            "wall_sec": self._wall_sec(),
            **self.tally.told(self.unique),
            **told,
        }
        self.directory.append_metrics(row)
        for writer in self.writers:
            writer.write(self.step, numbers(row))
        self.window_began, self.window_tokens = moment, 0

    # checkpoints

    def _checkpoint(self) -> None:
        """Write a checkpoint, then forget the oldest: never the other way round."""
        self.directory.sync_metrics()
        began = time.perf_counter()
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "loss": self.loss,
            "sources": dict(self.tally.rows),
            "source_tokens": self.tally.state(),
            "window": self.window.state(),
            "wall_sec": self._wall_sec(),
            "optimizer": optimizer_state(self.optimizer),
            "random": random_states(),
            "corpora": self.corpora,
        }
        if self.carry is not None:
            state["carried"] = self.carry.stored()
        path = checkpoint.checkpoint_path(self.directory.path, self.step)
        checkpoint.save(
            path, self.model, recipe=self.recipe.to_dict(), step=self.step, train_state=state
        )
        self.checkpointed = self.step
        checkpoint.rotate(self.directory.path, self.config.keep_checkpoints)
        self._status("running")
        # The speed of training is told without the time of writing.
        self.window_began += time.perf_counter() - began

    def restore(self) -> None:
        """Go back to the newest checkpoint, or to the start when there is none.

        Raises:
            InputError: the checkpoint is damaged or lies beyond the last step.
        """
        if not checkpoint.checkpoints(self.directory.path):
            self.directory.truncate_metrics(0)
            return
        path = checkpoint.latest(self.directory.path)
        step = verify(path)["step"]
        if step > self.config.steps:
            raise InputError(
                f"train.steps = {self.config.steps}: must be at least {step}, the step of {path}"
            )
        state = checkpoint.load_train_state(path)
        checkpoint.load_weights(path, self.model)
        try:
            self._take_over(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{path} cannot be resumed: its {TRAIN_STATE} is of another form "
                f"({type(error).__name__}: {error})"
            ) from None
        self.step = self.checkpointed = step
        self.directory.truncate_metrics(step)
        # A kill may have come before the oldest was forgotten, or in the middle of it.
        checkpoint.rotate(self.directory.path, self.config.keep_checkpoints)

    def _take_over(self, state: dict[str, Any]) -> None:
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.carry is not None:
            self.carry.load(state["carried"])
        set_random_states(state["random"])
        self.tokens, self.loss = state["tokens"], state["loss"]
        self.tally.load(state["sources"], state.get("source_tokens", {}))
        self.earlier_sec = state["wall_sec"]
        if "window" in state:  # absent in older checkpoints
            self.window.load(state["window"])
        for name, before in state.get("corpora", {}).items():  # absent in older checkpoints
            if self.corpora.get(name, before) != before:
                raise InputError(
                    f"the text of data source '{name}' is not the one that this run has read so "
                    "far (its fingerprint differs): put the old files back, or begin a new run"
                )
