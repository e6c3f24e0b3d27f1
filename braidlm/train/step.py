"""One optimizer step: which rows, which random numbers, loss and gradients.

Rows and random numbers are functions of (seed, step, micro, rank, world) and of nothing else, so a
run that is resumed, or cut into other micro-batches, sees what the uninterrupted one sees.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from braidlm.data.lanes import LaneBatch
from braidlm.errors import InputError
from braidlm.segments import Segments
from braidlm.train.carry import Carry
from braidlm.train.precision import Precision
from braidlm.train.record import Recorder
from braidlm.train.routers import Routers

IGNORED = -100


class Batch(Protocol):
    """What the loop needs of a batch: rows of tokens, their targets and their documents."""

    @property
    def tokens(self) -> Tensor:
        """(B, T) int64."""
        ...

    @property
    def targets(self) -> Tensor:
        """(B, T) int64, `IGNORED` where nothing is asked."""
        ...

    @property
    def segments(self) -> Segments | None:
        """Where documents lie; None: each row is one document."""
        ...


class Place(NamedTuple):
    """Which share of the work is ours."""

    device: torch.device
    rank: int = 0
    world: int = 1


def micro_slices(n_rows: int, micro_batch_size: int, rank: int = 0, world: int = 1) -> list[slice]:
    """Return the rows of each micro-batch of `rank`, in order; 0 means all of its rows at once.

    Raises:
        InputError: rows that do not divide among the ranks.
    """
    if n_rows % world:
        raise InputError(f"batch_size = {n_rows}: must be a multiple of {world} processes")
    share = n_rows // world
    size = micro_batch_size or share
    first = rank * share
    return [slice(at, min(at + size, first + share)) for at in range(first, first + share, size)]


def stream_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Return the seed of torch's generator for one micro-batch."""
    digest = hashlib.sha256(f"{seed}/{step}/{micro}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def rows_of(
    batch: Batch, rows: slice, device: torch.device
) -> tuple[Tensor, Tensor, Segments | None]:
    """Return tokens, targets and segments of some rows, on `device`: the one place of moving."""
    segments = batch.segments
    if segments is not None:
        whole = rows == slice(0, batch.tokens.shape[0])
        segments = segments if whole else Segments.from_doc_ids(segments.doc[rows])
        segments = segments.to(device)
    tokens = batch.tokens[rows].to(device, non_blocking=True)
    return tokens, batch.targets[rows].to(device, non_blocking=True), segments


def accumulate(
    model: nn.Module,
    batch: Batch,
    micro_batch_size: int,
    precision: Precision,
    place: Place,
    seed: int,
    step: int,
    routers: Routers | None = None,
    row_losses: Tensor | None = None,
    carry: Carry | None = None,
    recorder: Recorder | None = None,
) -> Tensor:
    """Add the gradients of one whole batch to `model` and return its loss.

    The loss is the sum over all target tokens of the batch divided by their number, whatever the
    micro-batches: one that has few targets does not weigh more than its share. The loss of routers
    is weighed by all tokens of documents in the same way.

    Args:
        model: what is trained.
        batch: the whole batch, of all processes.
        micro_batch_size: rows at once; 0: all.
        precision: of the forward pass.
        place: which share of the batch is ours.
        seed: of the run.
        step: updates made before.
        routers: those of `model`: their losses are added to the gradients, and they are told the
            batch's loads. None: the model has none.
        carry: what the rows remember of the update before; the batch is a `LaneBatch` then.
        recorder: adds micro-batches by passes that it has recorded; for a model without routers,
            and without `row_losses` and `carry`.
        row_losses: (B,) filled with the loss of each row of ours, summed over its targets in nats.

    Returns:
        () fp32, nats per target token, without a graph; what routers lose is not in it.

    Raises:
        InputError: the batch has no target token.
    """
    n_targets = int((batch.targets != IGNORED).sum())
    if n_targets == 0:
        raise InputError(f"the batch of step {step + 1} has no target token")
    total = torch.zeros((), device=place.device)
    n_tokens = count_tokens(batch.tokens, batch.segments)
    if routers:
        routers.begin()
    slices = micro_slices(batch.tokens.shape[0], micro_batch_size, place.rank, place.world)
    for micro, rows in enumerate(slices):
        if recorder is not None:
            total += recorder.add(*rows_of(batch, rows, torch.device("cpu")), n_targets)
            continue
        tokens, targets, segments = rows_of(batch, rows, place.device)
        torch.manual_seed(stream_seed(seed, step, micro, place.rank))
        asked = {"with_aux": True} if routers else {}
        with precision.autocast():
            reduction = "sum" if row_losses is None else "none"
            if carry is None:
                loss = model.loss(tokens, targets, segments, reduction=reduction, **asked)  # pyright: ignore
            else:
                assert isinstance(batch, LaneBatch)
                assert segments is not None
                on = batch.continues[rows]
                loss = carry.loss(micro, tokens, targets, segments, on, reduction, **asked)
        loss, aux = loss if routers else (loss, {})
        if row_losses is not None:
            each = loss.float().view(len(tokens), -1).sum(1)
            row_losses[rows] = each.detach().to(row_losses.device)
            loss = each.sum()
        if routers:
            share = count_tokens(tokens, segments) / n_tokens
            extra = routers.add(aux, share)
        else:
            extra = 0.0
        loss = loss.float() / n_targets
        (loss + extra).backward()
        total += loss.detach()
    return total


def count_tokens(tokens: Tensor, segments: Segments | None) -> int:
    """Count the tokens (B, T) that belong to documents."""
    return tokens.numel() if segments is None else int(segments.lengths.sum())
