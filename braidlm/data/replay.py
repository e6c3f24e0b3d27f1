"""Rows that another training has read, mixed among new ones at an exact share.

    fraction 0.25:   new 0, new 1, seen 0, new 2, new 3, new 4, seen 1, new 5, ...

The new rows are those of the declaration without replay, in their order; there are only fewer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from braidlm.arch.experiment import DataConfig
from braidlm.arch.replay import REPLAY, Replay
from braidlm.data.interleave import Interleave
from braidlm.data.packing import IGNORE, Row
from braidlm.data.streams import AnyStream, MixedRow, RowMixture
from braidlm.errors import InputError


@dataclass(frozen=True)
class Record:
    """The rows that a training has read: enough to read them again."""

    data: DataConfig
    """Its declaration."""
    seed: int
    """Its seed."""
    n_rows: int
    """Rows that it has read: row 0 to n_rows - 1 of its mixture."""
    corpora: dict[str, str]
    """Fingerprints of the texts that it has read, by source; those that are known."""
    before: Record | None
    """What was replayed in it."""

    def plain(self) -> dict[str, Any]:
        """Return plain data that `of` takes."""
        data = self.data.model_dump(mode="json", exclude_none=True)
        before = None if self.before is None else self.before.plain()
        return {**asdict(replace(self, before=None)), "data": data, "before": before}

    @classmethod
    def of(cls, plain: Any) -> Self:
        """Read what `plain` gave.

        Raises:
            InputError: it is of another form.
        """
        try:
            before = None if plain["before"] is None else cls.of(plain["before"])
            data = DataConfig.of(plain["data"])
            corpora = {str(k): str(v) for k, v in plain["corpora"].items()}
            return cls(data, int(plain["seed"]), int(plain["n_rows"]), corpora, before)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"the record of what was trained on is damaged: {error}") from None

    def read_with(self, tokenizer: str) -> Record:
        """Return the same with another name of the same tokenizer."""
        before = None if self.before is None else self.before.read_with(tokenizer)
        data = self.data.model_copy(update={"tokenizer": tokenizer})
        return replace(self, data=data, before=before)

    def check(self, replay: Replay, seq_len: int) -> None:
        """Refuse rows that cannot be read again.

        Raises:
            InputError: there are none, or they are longer than the new ones.
        """
        if self.n_rows < 1:
            raise InputError(f"data.replay.fraction = {replay.fraction}: the init has read no row")
        if seq_len < self.data.seq_len:
            raise InputError(
                f"data.seq_len = {seq_len}: must be at least {self.data.seq_len}, the tokens of a "
                "row of the init, so that data.replay can replay whole rows"
            )


class Rows(Protocol):
    """An endless sequence of rows of several sources; each a pure function of its number."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources, as in the metrics."""
        ...

    @property
    def streams(self) -> tuple[AnyStream | Replayed, ...]:
        """The rows of each source."""
        ...

    @property
    def seq_len(self) -> int:
        """Tokens of a row."""
        ...

    @property
    def vocab_size(self) -> int:
        """Every token is below this."""
        ...

    @property
    def corpora(self) -> dict[str, str]:
        """The fingerprint of the text behind each source that reads files."""
        ...

    def row(self, number: int) -> MixedRow:
        """Return row 0, 1, 2, ..."""
        ...


def open_rows(
    data: DataConfig,
    record: Record | None,
    seq_len: int | None = None,
    seed: int = 0,
    *,
    cache_dir: str | Path | None = None,
    verify: bool = False,
) -> Rows:
    """Return the rows of a declaration, with the replay that it declares.

    Args:
        data: the declaration.
        record: what is replayed; read only if `data.replay` is there.
        seq_len: tokens of a row; by default the declared one.
        seed: of every order and every generated item.
        cache_dir: folder of shard folders; by default the declared one.
        verify: compare the shards' checksums too.

    Raises:
        InputError: as `RowMixture` and `Replayed`, or there is nothing to replay.
    """
    own = RowMixture(data, seq_len, seed, cache_dir=cache_dir, verify=verify)
    if data.replay is None:
        return own
    if record is None:
        raise InputError(
            f"data.replay.fraction = {data.replay.fraction}: needs an init that was trained here "
            "(braid train --init RUN)"
        )
    folder = data.cache_dir if cache_dir is None else cache_dir
    again = Replayed(record, data.replay, own.seq_len, cache_dir=folder, verify=verify)
    return WithReplay(own, again, data.replay.fraction)


class Replayed:
    """The rows of another training, as many whole ones in a new row as fit; padding behind.

    Documents lie in each as they did there: one that was cut is cut at the same place.

    Raises:
        InputError: there are none, they are too long, or their text is another by now.
    """

    def __init__(
        self,
        record: Record,
        replay: Replay,
        seq_len: int,
        *,
        cache_dir: str | Path,
        verify: bool = False,
    ):
        record.check(replay, seq_len)
        self.rows = open_rows(
            record.data, record.before, seed=record.seed, cache_dir=cache_dir, verify=verify
        )
        for name, before in record.corpora.items():
            if self.rows.corpora.get(name, before) != before:
                raise InputError(
                    f"data.replay: the text of source '{name}' is not the one that the init has "
                    "read (its fingerprint differs): put the old files back"
                )
        self.seq_len, self.vocab_size = seq_len, self.rows.vocab_size
        self._per_row = seq_len // record.data.seq_len
        self._n_rows, self._sees_new = record.n_rows, replay.rows == "next"

    def numbers(self, number: int) -> list[int]:
        """Return which rows of the other training lie in row `number`."""
        first = number * self._per_row
        if self._sees_new:
            return [self._n_rows + first + i for i in range(self._per_row)]
        return [(first + i) % self._n_rows for i in range(self._per_row)]

    def row(self, number: int) -> Row:
        """Return row 0, 1, 2, ..."""
        return joined([self.rows.row(n).row for n in self.numbers(number)], self.seq_len)


def joined(rows: list[Row], seq_len: int) -> Row:
    """Lay the documents of rows side by side; what is left is padding."""
    if len(rows) == 1 and len(rows[0].tokens) == seq_len:
        return rows[0]
    tokens = np.zeros(seq_len, dtype=np.int64)  # nobody sees what padding is
    targets = np.full(seq_len, IGNORE, dtype=np.int64)
    at = 0
    for row in rows:
        count = sum(piece.stop - piece.start for piece in row.pieces)
        tokens[at : at + count] = row.tokens[:count]
        targets[at : at + count] = row.targets[:count]
        at += count
    return Row(tokens, targets, tuple(piece for row in rows for piece in row.pieces))


class WithReplay:
    """New rows and replayed ones: of the first n rows round(n fraction) are replayed."""

    def __init__(self, own: RowMixture, again: Replayed, fraction: float):
        self._own, self.again = own, again
        share = Fraction(repr(fraction))
        self._interleave = Interleave([share.numerator, share.denominator - share.numerator])
        self.names = (*own.names, REPLAY)
        self.streams: tuple[AnyStream | Replayed, ...] = (*own.streams, again)
        self.seq_len = own.seq_len
        self.vocab_size = max(own.vocab_size, again.vocab_size)

    @property
    def corpora(self) -> dict[str, str]:
        """The fingerprint of the text behind each source, those of what is replayed too."""
        theirs = {f"{REPLAY}/{name}": text for name, text in self.again.rows.corpora.items()}
        return self._own.corpora | theirs

    def row(self, number: int) -> MixedRow:
        """Return row 0, 1, 2, ..."""
        is_new, before = self._interleave.locate(number)
        if is_new:
            return self._own.row(before)
        return MixedRow(len(self._own.names), before, self.again.row(before))
