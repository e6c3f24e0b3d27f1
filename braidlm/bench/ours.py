"""Our own model: the update of `braid train`, the decoding of `braid generate`."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from braidlm.bench.accounts import accounts, counted
from braidlm.bench.contender import Call, Library, Setting, Stamps
from braidlm.bench.plan import Plan
from braidlm.checkpoint import cast_weights
from braidlm.errors import InputError
from braidlm.generate import CompiledStep, GraphStep, Sampling, step_for, stream_tokens
from braidlm.generate.mode import inference, precise_logits, weights_dtype
from braidlm.model import HybridLM
from braidlm.ops import dispatch
from braidlm.parallel import overlapped
from braidlm.runs import Run
from braidlm.segments import Segments
from braidlm.train.compile import compiled
from braidlm.train.precision import resolve_precision
from braidlm.train.progress import Silent
from braidlm.train.recompute import recomputed
from braidlm.train.record import check_launches
from braidlm.train.session import Session
from braidlm.train.step import Place

RATE = 1e-9
"""Of learning: random targets leave the weights as they are, and it costs what any rate does."""
ENDLESS = 2**40
"""Steps: nothing is logged and no checkpoint is written but in the first."""


def told_precision(name: str) -> str:
    """Say what "fp32" or "bf16" is in training."""
    return "fp32" if name == "fp32" else "bf16 autocast over fp32 weights"


class Rows:
    """The same batch for ever, as the loop reads it."""

    segments: Segments | None = None
    source_counts: Mapping[str, int] = {}

    def __init__(self, rows: Tensor) -> None:
        self.tokens, self.targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        self.n_tokens = self.tokens.numel()

    def batch(self, step: int) -> Rows:
        """Return it, whatever the step."""
        return self


class Trained:
    """A model and its optimizer in a session of training, of which only updates are made."""

    name = "braid"

    def __init__(self, setting: Setting, model: HybridLM) -> None:
        recipe, device = setting.recipe, setting.device
        check_launches(recipe, model, device)
        self.faults = counted(model)
        self.allocated: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        fields = {"lr": RATE, "steps": ENDLESS, "log_every": ENDLESS, "micro_batch_size": 0}
        fields |= {"telemetry_every": 0, "carry_states": False, "carry_kv_tokens": None}
        train = recipe.train.model_copy(update=fields)
        recipe = recipe.model_copy(
            update={"train": train, "data": recipe.data.model_copy(update={"replay": None})}
        )
        self.is_compiled = train.compile or setting.plan.is_compiled
        try:
            self._stack.enter_context(compiled(model, self.is_compiled, train.activation_budget))
            self._stack.enter_context(recomputed(model, train.activation_checkpointing))
            self._stack.enter_context(overlapped(model, train.overlap_branches))
        except InputError:
            self._stack.close()
            raise
        self.model = model.to(device).train()
        precision = resolve_precision(setting.training_dtype, device)
        self._session = Session(
            recipe, Run(folder), model, Rows(torch.zeros(1, 2, dtype=torch.int64)), precision,
            Place(device), Silent(),
        )  # fmt: skip
        self.about: dict[str, Any] = {
            "library": "braidlm",
            "precision": told_precision(precision.name),
            "optimizer": train.optimizer,
            "compiled": "sublayers" if self.is_compiled else "nothing",
            "recorded": "passes" if train.cuda_graph else "nothing",
            "overlapped": "branches" if train.overlap_branches else "nothing",
            "recomputed": train.activation_checkpointing,
        }

    def update(self, rows: Tensor) -> Call:
        """Return an update, reading of the loss and the gradient's norm included."""
        batch = Rows(rows)

        def call() -> None:
            self._session.mixture = batch
            self._session.update()
            self.about["ops"] = dispatch.used()

        dispatch.reset()
        return call

    def close(self) -> None:
        """Forget model, gradients and moments."""
        self._stack.close()
        del self.model, self._session


class Answering:
    """A model whose weights were cast."""

    name = "braid"

    def __init__(self, setting: Setting, model: HybridLM) -> None:
        self.faults, self._dtype = counted(model), setting.answering_dtype
        self.allocated: dict[str, int] = {}
        cast_weights(model, weights_dtype(setting.answering_dtype))
        self.model = model.to(setting.device).eval()
        plan = setting.plan
        self.step = step_for(self.model, is_compiled=plan.is_compiled, is_recorded=plan.is_recorded)
        self.about: dict[str, Any] = {
            "library": "braidlm",
            "precision": f"{setting.answering_dtype} weights",
            "step": _how(self.step, plan),
        }

    def prefill(self, prompts: Tensor) -> Call:
        """Return a forward pass with its states, and the head of the last token."""
        self._account(prompts)

        def call() -> None:
            with inference(self.model):
                hidden = self.model(prompts).hidden[:, -1]
                precise_logits(self.model, hidden).argmax(-1).tolist()
            self.about["ops"] = dispatch.used()

        return call

    def generate(self, prompts: Tensor, new_tokens: int) -> Stamps:
        """Return a whole `generate`; a step's tokens come together."""
        self._account(prompts)

        def call() -> list[float]:
            stamps = [
                time.perf_counter()
                for row, _ in stream_tokens(
                    self.model,
                    prompts.tolist(),
                    max_new_tokens=new_tokens,
                    sampling=Sampling(temperature=0),
                    step=self.step,
                )
                if row == 0
            ]
            self.about["ops"] = dispatch.used()
            return stamps

        return call

    def _account(self, prompts: Tensor) -> None:
        """Hold the bytes behind these prompts to those that are declared."""
        found = accounts(self.model, prompts, self._dtype)
        self.allocated = {"kv_bytes": found.kv_bytes, "state_bytes": found.state_bytes}
        self.faults += found.faults
        dispatch.reset()

    def close(self) -> None:
        """Forget the model."""
        del self.model, self.step


def _how(step: CompiledStep | GraphStep | None, plan: Plan) -> str:
    compiled = "compiled" if plan.is_compiled else "as it stands"
    return f"{compiled}, CUDA graph" if isinstance(step, GraphStep) else compiled


def library(build: Callable[[torch.device], HybridLM]) -> Library:
    """Return our own library; `build` gives the model in fp32."""
    return Library(
        "braid",
        lambda setting: Trained(setting, build(setting.device)),
        lambda setting: Answering(setting, build(setting.device)),
        lambda: True,
    )
