"""Endless rows: each source by itself, and all of them mixed. Any row without the ones before."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from braidlm.arch.biographies import BiographiesSource
from braidlm.arch.experiment import AnySource, DataConfig
from braidlm.arch.pairs import PairsSource
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.arch.phonebook import PhonebookSource
from braidlm.arch.symbols import SymbolSource
from braidlm.data.biographies.documents import MemorySplit, documents
from braidlm.data.interleave import Interleave
from braidlm.data.packing import Packing, Row, fill_row
from braidlm.data.pair_stream import PairStream
from braidlm.data.paraphrase_stream import ParaphraseStream
from braidlm.data.phonebook import PhonebookStream
from braidlm.data.prepare import MORE, open_text
from braidlm.data.seeding import TRAIN, generator
from braidlm.data.shards import ShardSet, Split
from braidlm.data.symbol_stream import SymbolStream
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.errors import InputError


class Stream(Protocol):
    """An endless sequence of rows; each is a pure function of its number."""

    @property
    def vocab_size(self) -> int:
        """Every token is below this."""
        ...

    def row(self, number: int) -> Row:
        """Return row 0, 1, 2, ..."""
        ...


class DocumentStream:
    """Documents, packed.

    Each epoch lays the documents end to end in another order and gives every row of that packing
    once, in another order again.
    """

    def __init__(
        self, split: Split | MemorySplit, tokenizer: Tokenizer, name: str, seq_len: int, seed: int
    ):
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        self._split, self._name, self._seq_len, self._seed = split, name, seq_len, seed
        self.rows_per_epoch = Packing(self._split.lengths, seq_len).n_rows
        self._plan = lru_cache(maxsize=2)(self._new_plan)

    @property
    def documents(self) -> Split | MemorySplit:
        """What the rows are made of; a piece names one by its place here."""
        return self._split

    def row(self, number: int) -> Row:
        """Return a row; row `number` belongs to epoch `number // rows_per_epoch`."""
        epoch, place = divmod(number, self.rows_per_epoch)
        packing, order = self._plan(epoch)
        pieces = packing.pieces(int(order[place]))
        lengths, pad_id = self._split.lengths, self.tokenizer.pad_id
        return fill_row(pieces, lengths, self._split.read, self._seq_len, pad_id)

    def unique_tokens(self, n_rows: int) -> int:
        """Return the tokens that rows 0 .. n_rows - 1 show at least once, bos and eos included."""
        packing, order = self._plan(0)
        if n_rows >= self.rows_per_epoch:
            return packing.n_tokens
        n_padding = self.rows_per_epoch * self._seq_len - packing.n_tokens
        has_last = self.rows_per_epoch - 1 in order[:n_rows]
        return n_rows * self._seq_len - n_padding * has_last

    def _new_plan(self, epoch: int) -> tuple[Packing, np.ndarray]:
        rng = generator(self._seed, TRAIN, self._name, epoch)
        documents = rng.permutation(len(self._split))
        packing = Packing(self._split.lengths, self._seq_len, documents)
        return packing, rng.permutation(packing.n_rows)


class TextStream(DocumentStream):
    """The train half of a corpus, packed.

    Raises:
        InputError: the train half is empty.
    """

    def __init__(self, shards: ShardSet, tokenizer: Tokenizer, name: str, seq_len: int, seed: int):
        if len(shards.train) == 0:
            raise InputError(
                f"source '{name}' has no document to train on (held_out = "
                f"{shards.meta['held_out']}): lower held_out, or cut "
                f"{shards.meta['source']['path']} into more documents ({MORE})"
            )
        super().__init__(shards.train, tokenizer, name, seq_len, seed)
        self.shards = shards


class BiographyStream(DocumentStream):
    """All biographies of a source, and the questions that it answers, packed.

    Raises:
        InputError: as `braidlm.data.biographies.told.Teller`.
    """

    def __init__(self, source: BiographiesSource, tokenizer: Tokenizer, seq_len: int, seed: int):
        told = MemorySplit(documents(source), tokenizer)
        super().__init__(told, tokenizer, source.name, seq_len, seed)


AnyStream = (
    TextStream | PairStream | ParaphraseStream | SymbolStream | PhonebookStream | BiographyStream
)


class MixedRow(NamedTuple):
    """A row, and where it came from."""

    source: int
    """Index of the source in the declaration."""
    number: int
    """How many rows that source had before."""
    row: Row


class RowMixture:
    """The rows of a declaration: row g is a pure function of (declaration, seq_len, seed, g).

    Args:
        data: the declaration; missing shards are built.
        seq_len: tokens of a row; by default the declared one.
        seed: of every order and every generated item.
        cache_dir: folder of shard folders; by default the declared one.
        verify: compare the shards' checksums too.

    Raises:
        InputError: see `open_text`, `TextStream`, `PairStream`, `ParaphraseStream`, `SymbolStream`,
            `PhonebookStream` and `BiographyStream`.
    """

    def __init__(
        self,
        data: DataConfig,
        seq_len: int | None = None,
        seed: int = 0,
        *,
        cache_dir: str | Path | None = None,
        verify: bool = False,
    ):
        self.data, self.seed = data, seed
        self.seq_len = data.seq_len if seq_len is None else seq_len
        self.names = tuple(source.name for source in data.sources)
        self._cache, self._verify = cache_dir, verify
        self._tokenizer: Tokenizer | None = None
        self.streams: tuple[AnyStream, ...] = tuple(map(self._open, data.sources))
        self._interleave = Interleave([source.weight for source in data.sources])

    @property
    def vocab_size(self) -> int:
        """Every token is below this: a model needs at least so many embeddings."""
        return max(stream.vocab_size for stream in self.streams)

    @property
    def corpora(self) -> dict[str, str]:
        """The fingerprint of the text behind each source that reads files."""
        named = zip(self.names, self.streams, strict=True)
        shards = {name: getattr(stream, "shards", None) for name, stream in named}
        return {name: s.meta["source"]["fingerprint"] for name, s in shards.items() if s}

    def row(self, number: int) -> MixedRow:
        """Return row 0, 1, 2, ..."""
        source, before = self._interleave.locate(number)
        return MixedRow(source, before, self.streams[source].row(before))

    def _open(self, source: AnySource) -> AnyStream:
        if isinstance(source, SymbolSource):
            return SymbolStream(source, self.seq_len, self.seed)
        self._tokenizer = self._tokenizer or load_tokenizer(self.data.tokenizer)
        if isinstance(source, PhonebookSource):
            return PhonebookStream(source, self._tokenizer, self.seq_len, self.seed)
        if isinstance(source, BiographiesSource):
            return BiographyStream(source, self._tokenizer, self.seq_len, self.seed)
        shards = open_text(
            self.data, source.name, self._tokenizer, cache_dir=self._cache, verify=self._verify
        )
        if isinstance(source, ParaphraseSource):
            return ParaphraseStream(shards, self._tokenizer, source, self.seq_len, self.seed)
        if isinstance(source, PairsSource):
            return PairStream(
                *(shards, self._tokenizer, source.name, self.seq_len, self.seed), source.too_long
            )
        return TextStream(shards, self._tokenizer, source.name, self.seq_len, self.seed)
