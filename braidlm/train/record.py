"""Forward and backward passes of a micro-batch, recorded once and launched as a whole.

A micro-batch of a few thousand tokens takes a GPU less time than the host takes to launch the few
thousand kernels that it consists of. What is recorded reads tokens, targets and documents from
fixed places and writes gradients to fixed places, so that every later micro-batch of the same shape
is a copy into the former and one launch. Clipping and the optimizer stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.parallel import Parallel
from braidlm.recording import Body, Record, as_cuda_graph
from braidlm.segments import Segments
from braidlm.train.precision import Precision
from braidlm.train.routers import Routers

LEAST_RUNS = 16
"""Room for documents of a recording at least."""
ASKS = (
    "train.cuda_graph = true: this model asks the GPU for a number in a forward or backward pass, "
    "which cannot be recorded; use train.cuda_graph = false"
)


class Unread(Segments):
    """Documents that cover all tokens, whose lengths are on the GPU and no business of the host."""

    @property
    def spans(self) -> tuple[tuple[int, int, int], ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Nobody knows.

        Raises:
            InputError: always.
        """
        raise InputError(ASKS)

    @property
    def max_length(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """T: no document is longer."""
        return self.shape[1]

    @property
    def places(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """None: all tokens are in documents."""
        return


class Inputs(NamedTuple):
    """What a recorded micro-batch reads."""

    tokens: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64."""
    documents: Segments | None
    """That cover all tokens; None: each row is one."""
    n_targets: Tensor
    """() fp32: target tokens of the whole batch, by which the loss is divided."""

    @property
    def form(self) -> tuple[int, ...]:
        """B, T and the number of documents, -1 where each row is one."""
        documents = self.documents
        return (*self.tokens.shape, -1 if documents is None else documents.n_docs)

    def on(self, device: torch.device) -> Inputs:
        """Copies of all of them."""
        tokens, targets, n_targets = (
            v.to(device, copy=True) for v in (self.tokens, self.targets, self.n_targets)
        )
        documents = None if self.documents is None else self.documents.to(device)
        return Inputs(tokens, targets, documents, n_targets)

    def tensors(self) -> list[Tensor]:
        """All of them, in one order."""
        kept = [self.tokens, self.targets, self.n_targets]
        return kept if self.documents is None else kept + _tensors(self.documents)


class Recorder:
    """Adds micro-batches to the gradients of a model by replaying passes that were recorded.

    Another shape, or more documents than there is room for, is recorded anew: the last recording
    alone is kept. Its activations stay allocated.

    Args:
        model: has `loss` as `HybridLM` has it, where it trains.
        precision: of the forward pass.
        device: of the model.
        record: how passes are recorded; None: as a CUDA graph.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision,
        device: torch.device,
        record: Record | None = None,
    ) -> None:
        self.model, self.precision, self.device = model, precision, device
        self._record = record or partial(as_cuda_graph, refusal=ASKS)
        self._parameters = list(model.parameters())
        self._held: tuple[Inputs, Body] | None = None
        """The places that are read, and what replays."""
        self._made: list[Tensor | None] = []
        """The gradients of one micro-batch, where passes write them."""
        self._loss: Tensor | None = None

    def add(
        self, tokens: Tensor, targets: Tensor, segments: Segments | None, n_targets: int
    ) -> Tensor:
        """Add a micro-batch's gradients to the model's, and return its loss () in nats.

        Args:
            tokens: (B, T) int64, on the host.
            targets: (B, T) int64, on the host.
            segments: where documents lie, on the host; None: each row is one.
            n_targets: of the whole batch; the micro-batch's summed loss is divided by it.
        """
        count = torch.tensor(float(n_targets))
        given = Inputs(tokens, targets, covering(segments, self._room), count)
        if self._held is None or self._held[0].form != given.form:
            self._forget()
            inputs = given.on(self.device)
            self._held = inputs, self._record(partial(self._passes, inputs))
        inputs, again = self._held
        for place, tensor in zip(inputs.tensors(), given.tensors(), strict=True):
            place.copy_(tensor, non_blocking=True)
        self._leave_places()
        again()
        self._add_up()
        assert self._loss is not None
        return self._loss.clone()

    @property
    def _room(self) -> int:
        """Documents that a recording has room for: it never shrinks."""
        held = None if self._held is None else self._held[0].documents
        return LEAST_RUNS if held is None else held.n_docs

    def _passes(self, inputs: Inputs) -> None:
        """Make a loss and gradients, and leave those that are there alone."""
        documents = None if inputs.documents is None else Unread(*_tensors(inputs.documents))
        before = self._gradients()
        self._set([None] * len(before))
        with self.precision.autocast():
            loss = self.model.loss(inputs.tokens, inputs.targets, documents, reduction="sum")  # pyright: ignore[reportCallIssue]
        loss = loss.float() / inputs.n_targets
        loss.backward()
        self._loss, self._made = loss.detach(), self._gradients()
        self._set(before)

    def _forget(self) -> None:
        """Free the memory of the last recording before more is asked for."""
        self._leave_places()
        self._held = self._loss = None
        self._made = []

    def _leave_places(self) -> None:
        """Keep gradients where the next passes do not write."""
        for parameter, place in zip(self._parameters, self._made, strict=False):
            if place is not None and parameter.grad is place:
                parameter.grad = place.clone()

    def _add_up(self) -> None:
        pairs = list(zip(self._parameters, self._made, strict=True))
        grown = [(p.grad, new) for p, new in pairs if p.grad is not None and new is not None]
        if grown:
            olds, news = zip(*grown, strict=True)
            torch._foreach_add_(olds, news)  # pyright: ignore[reportPrivateImportUsage]
        for parameter, new in pairs:
            parameter.grad = new if parameter.grad is None else parameter.grad

    def _gradients(self) -> list[Tensor | None]:
        return [p.grad for p in self._parameters]

    def _set(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def check_launches(recipe: Recipe, model: nn.Module, device: torch.device) -> None:
    """Refuse what `train.cuda_graph` and `overlap_branches` cannot do, before anything is written.

    Raises:
        InputError: another device than a GPU; routers, or losses that are told by source; a model
            without parallel sublayers.
    """
    is_elsewhere = f"needs an NVIDIA GPU; device is {device.type}", device.type != "cuda"
    has_branches = any(isinstance(module, Parallel) for module in model.modules())
    reasons = {
        "cuda_graph": (
            is_elsewhere,
            ("cannot be recorded together with data.replay", recipe.data.replay is not None),
            ("a mixture of experts cannot be recorded", bool(Routers(model))),
        ),
        "overlap_branches": (
            is_elsewhere,
            ("the model has no parallel sublayer", not has_branches),
        ),
    }
    for field, objections in reasons.items():
        found = [reason for reason, is_given in objections if is_given]
        if found and getattr(recipe.train, field):
            raise InputError(f"train.{field} = true: {found[0]}; use train.{field} = false")


def covering(segments: Segments | None, room: int = LEAST_RUNS) -> Segments | None:
    """Return documents that cover all tokens: `room`, or a power of two, the last ones empty.

    A run of padding is a document of its own: what is computed there is not asked for.
    """
    if segments is None:
        return None
    runs = Segments.from_doc_ids(segments.doc + 1)
    room = max(room, 1 << (runs.n_docs - 1).bit_length())
    rows, starts, lengths = (
        F.pad(v, (0, room - runs.n_docs)) for v in (runs.rows, runs.starts, runs.lengths)
    )
    return Segments(runs.doc, runs.position, rows, starts, lengths)


def _tensors(documents: Segments) -> list[Tensor]:
    return [getattr(documents, field.name) for field in fields(documents)]
