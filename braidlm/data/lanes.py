"""Lanes: each row of a batch goes on where the same row of the step before has ended.

    seq_len 4, lane 0:   step 0  a a a a   step 1  a a b b   step 2  b b b b
    continues                    no                yes               yes

A lane reads its share of a source's documents to the end, in an order of its own, and then again in
another. What it reads at a step is a function of the declaration, the seed and the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from braidlm.arch.experiment import DataConfig
from braidlm.data.interleave import Interleave
from braidlm.data.mixture import Batch, Mixture
from braidlm.data.packing import Packing, Row, fill_row
from braidlm.data.seeding import TRAIN, generator
from braidlm.data.shards import Split
from braidlm.data.streams import MixedRow, TextStream
from braidlm.errors import InputError


@dataclass(frozen=True, eq=False)
class LaneBatch(Batch):
    """A batch whose rows are lanes."""

    continues: Tensor = field(kw_only=True)
    """(B,) bool: whether a row's first document goes on from the step before."""


class Lane:
    """An endless reader of some documents.

    Args:
        split: the train half of a source.
        documents: (n,) those of this lane.
        keys: name the lane, so that its orders are its own.
        seq_len: tokens of a row.
        seed: of the orders.
        pad_id: token at padding: a lane's last row before it begins again.
    """

    def __init__(
        self,
        split: Split,
        documents: np.ndarray,
        keys: tuple[str, int],
        seq_len: int,
        seed: int,
        pad_id: int,
    ):
        self._split, self._documents = split, documents
        self._keys, self._seq_len, self._seed, self._pad_id = keys, seq_len, seed, pad_id
        self.rows_per_epoch = Packing(split.lengths, seq_len, documents).n_rows
        self._plan = lru_cache(maxsize=2)(self._new_plan)

    def row(self, step: int) -> Row:
        """Return the row of a step."""
        epoch, place = divmod(step, self.rows_per_epoch)
        pieces = self._plan(epoch).pieces(place)
        lengths = self._split.lengths
        return fill_row(pieces, lengths, self._split.read, self._seq_len, self._pad_id)

    def unique_tokens(self, n_steps: int) -> int:
        """Return the tokens that rows 0 .. n_steps - 1 show at least once, bos and eos included."""
        n_tokens = int(self._split.lengths[self._documents].sum())
        return min(n_steps * self._seq_len, n_tokens)

    def _new_plan(self, epoch: int) -> Packing:
        name, lane = self._keys
        order = generator(self._seed, TRAIN, name, "lane", lane, epoch)
        shuffled = self._documents[order.permutation(len(self._documents))]
        return Packing(self._split.lengths, self._seq_len, shuffled)


class LaneMixture(Mixture):
    """Batches of lanes: `Mixture`, but a row of a step goes on where that of the last step ended.

    Each lane reads one source; the lanes are divided among the sources by their weights.

    Raises:
        InputError: as `Mixture`; a source with fewer documents than lanes, or without a lane.
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
    ):
        super().__init__(data, seq_len, batch_size, seed, cache_dir=cache_dir, verify=verify)
        spread = Interleave([source.weight for source in data.sources])
        self._places = [spread.locate(lane) for lane in range(batch_size)]
        sources = [source for source, _ in self._places]
        self._lanes = [
            self._lane(source, number, sources.count(source), seed)
            for source, number in self._places
        ]
        for index, name in enumerate(self.rows.names):
            if index not in sources:
                raise InputError(
                    f"train.batch_size = {batch_size}: source '{name}' has no lane of its own; "
                    "raise batch_size, or the source's weight"
                )

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> LaneBatch:
        """Return the batch of a step, or its rows `start` to `stop` - 1 alone.

        Raises:
            ValueError: as `Mixture.batch`.
        """
        stop = self._checked(step, start, stop)
        lanes = range(start, stop)
        rows = [self._lanes[lane].row(step) for lane in lanes]
        found = [
            MixedRow(self._places[lane][0], step, row)
            for lane, row in zip(lanes, rows, strict=True)
        ]
        continues = torch.tensor([row.pieces[0].start > 0 for row in rows])
        return LaneBatch(**vars(self._collate(found)), continues=continues)

    def unique_tokens(self, rows: Mapping[str, int]) -> dict[str, int | None]:
        """Return the different tokens of text in the first rows of each source.

        Args:
            rows: how many, by the source's name: as many of each of its lanes.
        """
        lanes: dict[str, list[Lane]] = {}
        for lane, (source, _) in zip(self._lanes, self._places, strict=True):
            lanes.setdefault(self.rows.names[source], []).append(lane)
        return {
            name: sum(lane.unique_tokens(n_rows // len(lanes[name])) for lane in lanes[name])
            for name, n_rows in rows.items()
        }

    def _lane(self, source: int, number: int, n_lanes: int, seed: int) -> Lane:
        stream, name = self.rows.streams[source], self.rows.names[source]
        assert isinstance(stream, TextStream)
        split = stream.shards.train
        if len(split) < n_lanes:
            raise InputError(
                f"source '{name}' has {len(split)} documents to train on and {n_lanes} lanes: "
                "train.batch_size must be lower, so that every lane has a document"
            )
        order = generator(seed, TRAIN, name, "lanes").permutation(len(split))
        documents = order[number::n_lanes]
        pad_id = stream.tokenizer.pad_id
        return Lane(split, documents, (name, number), self.seq_len, seed, pad_id)
