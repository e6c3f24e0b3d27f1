"""Batches for training: a pure function of the seed and the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from braidlm.arch.experiment import DataConfig
from braidlm.data.packing import IGNORE, Row
from braidlm.data.replay import Record, open_rows
from braidlm.data.streams import MixedRow
from braidlm.errors import InputError
from braidlm.segments import PADDING, Segments


@dataclass(frozen=True, eq=False)
class Batch:
    """B packed rows of T tokens."""

    tokens: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64: what follows each token, -100 where there is no loss."""
    segments: Segments
    """Where the documents lie; a continued document is a new one here."""
    n_tokens: int
    """Tokens that are no padding."""
    n_targets: int
    """Positions that carry loss."""
    row_sources: tuple[str, ...]
    """(B,) name of each row's source."""
    row_counts: tuple[tuple[int, int], ...] = ()
    """(B,) tokens of each row that are no padding, and those that carry loss."""

    @property
    def source_counts(self) -> dict[str, int]:
        """Rows of each source that the batch holds."""
        return dict(Counter(self.row_sources))

    @property
    def source_tokens(self) -> dict[str, tuple[int, int]]:
        """Tokens that are no padding, and those that carry loss, of each source."""
        found: dict[str, tuple[int, int]] = {}
        for name, (n_tokens, n_targets) in zip(self.row_sources, self.row_counts, strict=True):
            before = found.get(name, (0, 0))
            found[name] = (before[0] + n_tokens, before[1] + n_targets)
        return found

    def to(self, device: str | torch.device) -> Batch:
        """Return the same batch with every tensor on `device`."""
        moved = {"tokens": self.tokens.to(device), "targets": self.targets.to(device)}
        return replace(self, segments=self.segments.to(device), **moved)


class Mixture:
    """The training batches of a declaration.

    `batch(step)` depends on the declaration, `seq_len`, `batch_size`, the seed and the step only:
    a resumed run needs no position, and row r of step s is row s * batch_size + r of one stream
    whatever the batch size.

    Args:
        data: the declaration; shards that are missing are built.
        seq_len: T; by default the declared one.
        batch_size: B.
        seed: of every order and every generated item.
        cache_dir: folder of shard folders; by default the declared one.
        verify: compare the shards' checksums too.
        record: of the init, whose rows a declared replay takes.

    Raises:
        InputError: see `open_rows`; or a batch size below 1.
    """

    def __init__(
        self,
        data: DataConfig,
        seq_len: int | None = None,
        batch_size: int = 1,
        seed: int = 0,
        *,
        cache_dir: str | Path | None = None,
        verify: bool = False,
        record: Record | None = None,
    ):
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size} must be at least 1")
        self.rows = open_rows(data, record, seq_len, seed, cache_dir=cache_dir, verify=verify)
        self.batch_size = batch_size

    @property
    def seq_len(self) -> int:
        """T, tokens of a row."""
        return self.rows.seq_len

    @property
    def vocab_size(self) -> int:
        """Every token is below this: a model needs at least so many embeddings."""
        return self.rows.vocab_size

    @property
    def corpora(self) -> dict[str, str]:
        """The fingerprint of the text behind each source that reads files."""
        return self.rows.corpora

    def unique_tokens(self, rows: Mapping[str, int]) -> dict[str, int | None]:
        """Return the different tokens of text in the first rows of each source.

        Args:
            rows: how many, by the source's name.

        Returns:
            By name: tokens of text that these rows show at least once; None: its rows are
            generated, or those of another training.
        """
        streams = dict(zip(self.rows.names, self.rows.streams, strict=True))
        found: dict[str, int | None] = {}
        for name, n_rows in rows.items():
            tell = getattr(streams[name], "unique_tokens", None)
            found[name] = None if tell is None else tell(n_rows)
        return found

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return the batch of a step, or its rows `start` to `stop` - 1 alone.

        Slices are for micro-batches and for the ranks of a data-parallel run; put together they
        are the whole batch.

        Raises:
            ValueError: a negative step, or rows outside 0 .. batch_size.
        """
        stop = self._checked(step, start, stop)
        first = step * self.batch_size
        return self._collate([self.rows.row(first + r) for r in range(start, stop)])

    def _checked(self, step: int, start: int, stop: int | None) -> int:
        """Return where the rows end that are asked for."""
        stop = self.batch_size if stop is None else stop
        if step < 0 or not 0 <= start < stop <= self.batch_size:
            raise ValueError(
                f"step {step}, rows {start} to {stop}: the step must be 0 or more and the rows "
                f"a part of 0 to {self.batch_size}"
            )
        return stop

    def _collate(self, found: list[MixedRow]) -> Batch:
        targets = np.stack([mixed.row.targets for mixed in found])
        ids = np.stack([_document_ids(mixed.row) for mixed in found])
        return Batch(
            tokens=torch.from_numpy(np.stack([mixed.row.tokens for mixed in found])),
            targets=torch.from_numpy(targets),
            segments=Segments.from_doc_ids(torch.from_numpy(ids)),
            n_tokens=int((ids != PADDING).sum()),
            n_targets=int((targets != IGNORE).sum()),
            row_counts=tuple(map(_counts, ids, targets)),
            row_sources=tuple(self.rows.names[mixed.source] for mixed in found),
        )


def _counts(ids: np.ndarray, targets: np.ndarray) -> tuple[int, int]:
    return int((ids != PADDING).sum()), int((targets != IGNORE).sum())


def _document_ids(row: Row) -> np.ndarray:
    lengths = [piece.stop - piece.start for piece in row.pieces]
    ids = np.full(len(row.tokens), PADDING, dtype=np.int64)
    ids[: sum(lengths)] = np.repeat(np.arange(len(lengths)), lengths)
    return ids
