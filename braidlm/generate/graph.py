"""A step of decoding recorded as a CUDA graph: the host launches it as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braidlm import state as states
from braidlm.errors import InputError
from braidlm.generate.ahead import Running, Told, columns
from braidlm.generate.compiled import CompiledStep, plain, versions
from braidlm.generate.filters import Sampling
from braidlm.generate.mode import device_of, inference, precise_logits
from braidlm.model import HybridLM
from braidlm.recording import Record, as_cuda_graph


def step_for(
    model: HybridLM, *, is_compiled: bool = False, is_recorded: bool = True
) -> CompiledStep | GraphStep | None:
    """Return what runs a model's steps where it is; None: they run as they stand.

    Args:
        model: with the weights, and on the device, of the texts to come.
        is_compiled: whether steps are compiled.
        is_recorded: whether they are recorded on a GPU.
    """
    if is_recorded and device_of(model).type == "cuda":
        return GraphStep(model, compiled=is_compiled)
    return CompiledStep(model) if is_compiled else None


class GraphStep:
    """One token per row and step, chosen on the GPU, recorded for a number of rows and a room.

    A few hundred launches become one, which the host makes some steps ahead. Recording costs about
    two steps as they stand, for every other number of rows, form of the state and way to choose;
    only the last recording is kept, with a state of its own.

    Args:
        model: on a GPU, in evaluation mode whenever a step runs.
        compiled: whether the step is compiled before it is recorded, see `CompiledStep`.
        record: how a step is recorded; None: as a CUDA graph.
        dtype: the precision of its steps, see `inference`.

    Raises:
        InputError: a model that is not on a GPU.
    """

    def __init__(
        self,
        model: HybridLM,
        compiled: bool = False,
        record: Record | None = None,
        dtype: str = "fp32",
    ) -> None:
        if record is None and device_of(model).type != "cuda":
            raise InputError("a step is recorded on a GPU: move the model, or leave out `step`")
        self.model, self.dtype = model, dtype
        self.versions = versions(model)
        self._step = CompiledStep(model) if compiled else self._as_it_stands
        asks = (
            f"the step of '{model.spec.pattern}' cannot be recorded: "
            "it asks the GPU for a number in between. Leave out `step` (`--no-graph`)"
        )
        self._record = record or partial(as_cuda_graph, refusal=asks)
        self._running: tuple[Any, Running] | None = None
        self._n_runs = 0

    def check(self, model: HybridLM) -> None:
        """Refuse another model, and weights and hooks that have changed since this was made.

        Raises:
            InputError: make a new `GraphStep`.
        """
        if model is not self.model or versions(model) != self.versions:
            raise InputError(
                "the recorded step holds other weights or hooks than the model: make a new one"
            )

    def run(
        self,
        tokens: Sequence[int],
        state: Any,
        n_steps: int,
        sampling: Sampling,
        draws: Sequence[np.random.Generator],
    ) -> Iterator[list[int]]:
        """Feed tokens (n,) and then what the steps choose; yield each step's choice (n,).

        Steps run ahead of what is asked for. A choice of `ops.greedy.BROKEN` says that the logits
        of a row are not finite.

        Args:
            tokens: what the first step reads.
            state: of a prefill of these rows; it is copied.
            n_steps: how many choices are made.
            sampling: how.
            draws: each row's random numbers, one per choice.

        Raises:
            InputError: a step that asks the host for numbers, which no graph can.
        """
        with self._mode():
            state = plain(self.model.reserve(state, n_steps))
            running = self._running_for(state, len(tokens), sampling)
            running.begin(tokens, state)
        del state  # it was copied
        self._n_runs += 1
        number = self._n_runs

        def start(n: int) -> Told:
            if number != self._n_runs:
                raise InputError("a recorded step has one state: end one text before the next one")
            with self._mode():
                return running.start(n, draws)

        yield from columns(start, n_steps)

    @contextlib.contextmanager
    def _mode(self) -> Iterator[None]:
        """Steps as they stand but for one thing: weights that are cast are not kept.

        A recording would read them where they no longer are.
        """
        kind, is_narrow = device_of(self.model).type, self.dtype == "bf16"
        with (
            inference(self.model, self.dtype),
            torch.autocast(kind, torch.bfloat16, enabled=is_narrow, cache_enabled=False),
        ):
            yield

    def _running_for(self, state: Any, n_rows: int, sampling: Sampling) -> Running:
        form = [(t.shape, t.dtype) for t in states.tensors(state)]
        key = (n_rows, form, sampling.temperature, sampling.top_p, sampling.top_k)
        if self._running is None or self._running[0] != key:
            self._running = None  # its memory is free before more is asked for
            self._running = key, self._made(state, n_rows, sampling)
        return self._running[1]

    def _made(self, state: Any, n_rows: int, sampling: Sampling) -> Running:
        device = device_of(self.model)
        return Running(self._step, state, n_rows, sampling, self._record, device)

    def _as_it_stands(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        out = self.model(tokens, None, state)
        return precise_logits(self.model, out.hidden[:, 0]), out.state
