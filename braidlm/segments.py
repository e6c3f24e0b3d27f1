"""Where the documents of a batch lie: the one truth about packing and padding.

Every mask, reset, rotary position, `cu_seqlens` and per-document state derives from `Segments`.
`segments=None` means everywhere: each row is one document, and state index == row.
Axes: B rows, T tokens per row, n_docs documents of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.errors import InputError

PADDING = -1
BUCKET_RATIO = 1.25
"""Documents of one bucket differ in length by at most this factor."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The documents of one (B, T) batch, in row-major order.

    Two tokens may see each other if and only if `doc` is equal and not `PADDING`.
    Build one with `from_lengths`, `from_mask` or `from_doc_ids`; fields are not checked again.
    """

    doc: Tensor
    """(B, T) int64: index of the token's document in 0..n_docs-1, or -1 at padding."""
    position: Tensor
    """(B, T) int64: tokens since the document's first one in this call (padding: of its run)."""
    rows: Tensor
    """(n_docs,) int64: the row of each document."""
    starts: Tensor
    """(n_docs,) int64: the column of each document's first token."""
    lengths: Tensor
    """(n_docs,) int64: tokens of each document, at least 1."""

    @classmethod
    def from_lengths(
        cls, lengths: Sequence[Sequence[int]], total: int | None = None, device: str = "cpu"
    ) -> Segments:
        """Documents packed from the left of each row; the rest of the row is padding.

        Args:
            lengths: for each row the lengths of its documents, in order, each at least 1.
            total: T, the columns of the batch; by default the fullest row.
            device: where the tensors live.

        Raises:
            InputError: a length below 1, or a row that holds more than `total` tokens.
        """
        fullest = max((sum(row) for row in lengths), default=0)
        total = fullest if total is None else total
        if any(n < 1 for row in lengths for n in row):
            raise InputError(f"lengths={lengths} holds a document of less than one token.")
        if fullest > total or total < 1:
            raise InputError(
                f"total={total} must be at least 1 and hold the longest row, {fullest}."
            )
        ids = torch.full((len(lengths), total), PADDING, dtype=torch.int64)
        for r, row in enumerate(lengths):
            runs = torch.repeat_interleave(
                torch.arange(len(row)), torch.tensor(row, dtype=torch.int64)
            )
            ids[r, : len(runs)] = runs
        return cls.from_doc_ids(ids.to(device))

    @classmethod
    def from_mask(cls, mask: Tensor) -> Segments:
        """A padded batch: each row holds exactly one document, so document index == row.

        Args:
            mask: (B, T) bool, true at real tokens; each row has one unbroken run of true.

        Raises:
            InputError: a mask that is not (B, T) bool, or a row without exactly one run of true.
        """
        if mask.dtype != torch.bool or mask.dim() != 2:
            raise InputError(
                f"mask is {mask.dtype} of shape {tuple(mask.shape)}; it must be (B, T) bool."
            )
        built = cls.from_doc_ids(mask.to(torch.int64) - 1)
        per_row = torch.bincount(built.rows, minlength=mask.shape[0])
        if bool((per_row != 1).any()):
            row = int((per_row != 1).nonzero()[0, 0])
            raise InputError(
                f"mask row {row} has {int(per_row[row])} runs of true; each row must have one."
            )
        return built

    @classmethod
    def from_doc_ids(cls, ids: Tensor) -> Segments:
        """Any contiguous runs: a document is a longest run of one id inside a row.

        Args:
            ids: (B, T) integers, -1 at padding. Documents are numbered anew in row-major order, so
                ids may repeat from row to row; an id that returns later in a row is a new document.

        Raises:
            InputError: ids that are not (B, T) integers, or an id below -1.
        """
        if ids.dim() != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise InputError(
                f"ids is {ids.dtype} of shape {tuple(ids.shape)}; it must be (B, T) integers."
            )
        if ids.numel() and int(ids.min()) < PADDING:
            raise InputError(f"ids holds {int(ids.min())}; an id is 0 or more, or -1 for padding.")
        ids = ids.to(torch.int64)
        is_first = torch.ones_like(ids, dtype=torch.bool)
        is_first[:, 1:] = ids[:, 1:] != ids[:, :-1]
        is_real = ids != PADDING
        opens = is_first & is_real
        numbered = opens.flatten().cumsum(0).view_as(ids) - 1
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        run_start = torch.where(is_first, columns, 0).cummax(dim=1).values
        rows, starts = opens.nonzero(as_tuple=True)
        lengths = torch.bincount(numbered[is_real], minlength=len(rows))
        doc = torch.where(is_real, numbered, PADDING)
        return cls(doc, columns - run_start, rows, starts, lengths)

    @property
    def n_docs(self) -> int:
        """Number of documents: the leading dimension of every state of a packed call."""
        return self.rows.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T) of the batch."""
        return self.doc.shape[0], self.doc.shape[1]

    @property
    def is_real(self) -> Tensor:
        """(B, T) bool: true at tokens that belong to a document."""
        return self.doc >= 0

    @property
    def last(self) -> Tensor:
        """(n_docs,) int64: the column of each document's last token."""
        return self.starts + self.lengths - 1

    @cached_property
    def spans(self) -> tuple[tuple[int, int, int], ...]:
        """(row, start, length) of each document as Python integers (waits for the device)."""
        table = torch.stack((self.rows, self.starts, self.lengths), dim=1).tolist()
        return tuple((row, start, length) for row, start, length in table)

    @cached_property
    def max_length(self) -> int:
        """Tokens of the longest document; 0 without documents."""
        return max((length for _, _, length in self.spans), default=0)

    def similar(self, most: int | None = None) -> Buckets:
        """The first `most` tokens of every document, all by default, by length; kept for later.

        Waits for the device once.
        """
        if most not in self._similar:
            length = self.shape[1]
            firsts = [row * length + start for row, start, _ in self.spans]
            lengths = [n if most is None else min(n, most) for _, _, n in self.spans]
            self._similar[most] = bucketed(firsts, lengths, self.doc.device)
        return self._similar[most]

    @cached_property
    def _similar(self) -> dict[int | None, Buckets]:
        return {}

    @cached_property
    def doubled(self) -> Segments:
        """The same documents with two places for every token, side by side."""
        here = self.position.repeat_interleave(2, dim=1) * 2
        here[:, 1::2] += 1
        doc = self.doc.repeat_interleave(2, dim=1)
        return Segments(doc, here, self.rows, 2 * self.starts, 2 * self.lengths)

    def with_room(self, n_free: int) -> Room:
        """The same documents, each with `n_free` more tokens in front (waits for the device).

        Rows grow by the room of the row with the most documents; the others are padded behind.
        """
        batch, length = self.shape
        begun = torch.zeros_like(self.doc)
        begun[self.rows, self.starts] = 1
        begun = begun.cumsum(dim=1)
        width = length + n_free * (int(begun.max()) if begun.numel() else 0)
        device = self.doc.device
        column = torch.arange(length, device=device) + n_free * begun
        tokens = column + width * torch.arange(batch, device=device)[:, None]
        first = tokens[self.rows, self.starts]
        free = first[:, None] + torch.arange(-n_free, 0, device=device)
        ids = torch.full((batch * width,), PADDING, device=device)
        ids[tokens] = self.doc
        ids[free] = torch.arange(self.n_docs, device=device)[:, None].expand_as(free)
        return Room(Segments.from_doc_ids(ids.view(batch, width)), tokens, free)

    @cached_property
    def places(self) -> Tensor | None:
        """(n_real,) int64: where the real tokens lie in the flattened rows; None: all are real.

        Waits for the device if the host does not know the lengths.
        """
        if sum(length for _, _, length in self.spans) == self.doc.numel():
            return None
        return self.is_real.flatten().nonzero()[:, 0]

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(n_docs + 1,) int32: offsets of documents among the real tokens in row-major order."""
        zero = self.lengths.new_zeros(1)
        return torch.cat((zero, self.lengths.cumsum(0))).to(torch.int32)

    def to(self, device: str | torch.device) -> Segments:
        """The same documents with every tensor on `device`; a host that knew them goes on to."""
        moved = Segments(*(getattr(self, field.name).to(device) for field in fields(self)))
        if self.doc.device.type == "cpu" and moved.doc.device.type != "cpu":
            moved.__dict__["spans"] = self.spans
        return moved


class Buckets(NamedTuple):
    """Runs of tokens in flattened rows, those of similar length in one block, padded behind."""

    shapes: tuple[tuple[int, int], ...]
    """(n, L) of each block: so many runs, the longest of so many tokens."""
    index: Tensor
    """(M,) int64: places of the tokens of all blocks; behind a run's end its last one again."""
    real: Tensor
    """(m,) int64: which of the M are no padding."""
    places: Tensor
    """(m,) int64: where those lie in the rows."""


def bucketed(firsts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Buckets:
    """Sort runs into blocks, by the place of each one's first token and its tokens."""
    shapes, index, is_real = [], [], []
    for runs in _buckets(lengths):
        length = torch.tensor([lengths[r] for r in runs])[:, None]
        within = torch.arange(lengths[runs[0]])
        first = torch.tensor([firsts[r] for r in runs])[:, None]
        shapes.append((len(runs), len(within)))
        index.append((first + within.minimum(length - 1)).flatten())
        is_real.append((within < length).flatten())
    places = torch.cat(index) if index else torch.empty(0, dtype=torch.int64)
    real = torch.cat(is_real).nonzero()[:, 0] if index else places
    tensors = (t.to(device) for t in (places, real, places[real]))
    return Buckets(tuple(shapes), *tensors)


def _buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of runs, the longest first, grouped by `BUCKET_RATIO`."""
    groups: list[list[int]] = []
    for r in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if groups and lengths[groups[-1][0]] <= BUCKET_RATIO * lengths[r]:
            groups[-1].append(r)
        else:
            groups.append([r])
    return groups


class Room(NamedTuple):
    """Documents with free tokens in front, and where everything lies in the flattened rows."""

    segments: Segments
    """The longer documents, in the same order."""
    tokens: Tensor
    """(B, T) int64: places of the columns that were there, padding included."""
    free: Tensor
    """(n_docs, n_free) int64: places of the free tokens."""


def token_positions(
    batch: int, length: int, segments: Segments | None, offset: Tensor | None, device: torch.device
) -> Tensor:
    """Position of each token in its whole document, earlier calls included.

    Args:
        batch: B, rows.
        length: T, tokens per row.
        segments: where documents lie; None: each row is one document.
        offset: (n_docs,) int64, tokens of each document that earlier calls have seen, or None.
        device: where the result lives.

    Returns:
        (B, T) int64. At padding the number is finite and meaningless.
    """
    if segments is None:
        here = torch.arange(length, device=device).expand(batch, length)
        return here if offset is None else here + offset[:, None]
    if offset is None or segments.n_docs == 0:
        return segments.position
    return segments.position + offset[segments.doc.clamp_min(0)]


def check_segments(segments: Segments | None, batch: int, length: int) -> int:
    """The number of documents of a (batch, length) call.

    Raises:
        ValueError: `segments` describes a batch of another shape.
    """
    if segments is None:
        return batch
    if segments.shape != (batch, length):
        raise ValueError(f"segments has shape {segments.shape}; the input has ({batch}, {length}).")
    return segments.n_docs
