"""Tokenise a corpus once into a shard folder."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from braidlm.arch.experiment import FileSource
from braidlm.arch.pairs import PairsSource
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.arch.sources import TextSource
from braidlm.data.building import building
from braidlm.data.corpora import PYTHON_DOCS, Document, corpus_files, file_names
from braidlm.data.halves import is_held_out
from braidlm.data.hub_datasets import commit, data_set_name, local_files
from braidlm.data.pairs import read_documents
from braidlm.data.paraphrase.folder import PAIRS
from braidlm.data.paraphrases import pairs_file
from braidlm.data.shard_write import SplitWriter
from braidlm.data.shards import (
    FORMAT,
    LEARNT,
    PROMPT,
    SPLITS,
    UNIT_END,
    ShardSet,
    Verify,
    open_shards,
)
from braidlm.data.tokenizer import Tokenizer
from braidlm.data.units import unit_marks
from braidlm.errors import InputError
from braidlm.files import sealed, write_json

MAX_SHARD_TOKENS = 1 << 27
_BATCH_CHARS = 1 << 20
_BATCH_DOCUMENTS = 1024

Progress = Callable[[int, int], None]
"""Called with (documents, bytes of text) done so far."""


def shard_key(source: FileSource, tokenizer: Tokenizer, held_out: float) -> str:
    """Return the name of a corpus's shard folder: 16 hex digits.

    It changes with the path, size or time of any source file, the tokenizer, the held-out
    fraction, every field of the source that says what a document is, and the format.

    Raises:
        InputError: the corpus does not exist.
    """
    stats = [(str(f.resolve()), f.stat()) for f in _files(source)]
    stamps = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    if isinstance(source, ParaphraseSource):
        how = source.model_dump(include={"kind"})  # every layout reads the same shards
    else:
        how = source.model_dump(exclude={"name", "weight", "path", "files", "too_long"})
        how["path"] = source.path if source.is_hub or source.path == PYTHON_DOCS else ""
    parts = [FORMAT, stamps, tokenizer.fingerprint, held_out, how]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def build_shards(
    source: FileSource,
    tokenizer: Tokenizer,
    cache: str | Path,
    *,
    held_out: float = 0.0,
    verify: Verify = False,
    max_shard_tokens: int = MAX_SHARD_TOKENS,
    progress: Progress | None = None,
) -> ShardSet:
    """Return the shards of a corpus, tokenising it unless `cache` holds them already.

    The folder is built under another name and then renamed, so that a killed build is never
    read; of several processes that build the same one, the first to finish wins.

    Args:
        source: what is read; its name and weight do not matter.
        tokenizer: gives the ids; it fixes the stored dtype.
        cache: folder of shard folders.
        held_out: share of the documents that go to the held-out split, chosen by their hash.
        verify: compare the checksums of shards that exist already, see `open_shards`.
        max_shard_tokens: a shard is closed after this many tokens.
        progress: told how far the work is.

    Raises:
        InputError: an unreadable or empty corpus, or damaged shards.
        OSError: the disk is full or cannot be written.
    """
    key = shard_key(source, tokenizer, held_out)
    folder = Path(cache) / f"{_slug(source)}-{key}"
    if not folder.exists():
        with building(folder) as temporary:
            _Builder(source, temporary, tokenizer, held_out, max_shard_tokens, progress).run()
    return open_shards(folder, fingerprint=tokenizer.fingerprint, verify=verify)


class _Builder:
    """One pass over a corpus into a temporary folder."""

    def __init__(
        self,
        source: FileSource,
        folder: Path,
        tokenizer: Tokenizer,
        held_out: float,
        max_tokens: int,
        progress: Progress | None,
    ):
        revision = ""
        if not isinstance(source, ParaphraseSource):
            if source.is_hub:
                source = source.model_copy(update={"revision": commit(source)})
            revision = source.revision
        self._source, self._is_pairs = source, not isinstance(source, TextSource)
        self._loss_on_prompt = isinstance(source, PairsSource) and source.loss_on_prompt
        self._folder, self._tokenizer, self._held_out = folder, tokenizer, held_out
        self._progress = progress
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._splits = {
            s: SplitWriter(folder, s, self._dtype, max_tokens, self._is_pairs) for s in SPLITS
        }
        self._digest = hashlib.sha256(revision.encode())
        self._documents = self._bytes = self._empty = 0

    def run(self) -> None:
        began = time.perf_counter()
        try:
            for batch in _batches(self._full(read_documents(self._source, self._tokenizer))):
                self._add(batch)
            if self._documents == 0:
                raise InputError(
                    f"corpus {self._source.path} holds no text "
                    f"({self._empty} empty documents were skipped)"
                )
            for split in self._splits.values():
                split.finish()
        finally:
            for split in self._splits.values():
                with contextlib.suppress(OSError):  # what cannot be flushed is thrown away anyway
                    split.abandon()
        self._write_meta(time.perf_counter() - began)

    def _full(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            if document.text.strip():
                yield document
            else:
                self._empty += 1

    def _add(self, batch: Sequence[Document]) -> None:
        edges = [self._tokenizer.bos_id], [self._tokenizer.eos_id]
        encoded = self._tokenizer.encode_batch([d.text for d in batch])
        prompts = self._tokenizer.encode_batch([d.prompt or "" for d in batch])
        for document, prompt, ids in zip(batch, prompts, encoded, strict=True):
            n_bytes = self._digested(document)
            side = "held_out" if is_held_out(document.key, self._held_out) else "train"
            tokens = np.concatenate((edges[0], prompt, ids, edges[1]))
            mask = self._mask(document, prompt, ids) if self._is_pairs else None
            self._splits[side].add(document.id, tokens, n_bytes, mask)
            self._documents += 1
            self._bytes += n_bytes
        if self._progress is not None:
            self._progress(self._documents, self._bytes)

    def _digested(self, document: Document) -> int:
        """Take a document into the corpus's fingerprint; return the bytes of its text."""
        parts = [document.text] if document.prompt is None else [document.prompt, document.text]
        data = [part.encode("utf-8", "replace") for part in parts]
        for part in data:
            self._digest.update(hashlib.sha256(part).digest())
        return sum(map(len, data))

    def _mask(self, document: Document, prompt: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return the mask of bos, prompt, answer and eos."""
        of_prompt = PROMPT | (LEARNT if self._loss_on_prompt else 0)
        kinds = np.array([0, of_prompt, LEARNT], np.uint8)
        mask = np.repeat(kinds, [1, len(prompt), len(ids) + 1])
        if isinstance(self._source, ParaphraseSource):
            both = (document.prompt or "", prompt), (document.text, ids)
            marks = [unit_marks(*text, self._tokenizer) for text in both]
            mask[1:-1] |= UNIT_END * np.concatenate(marks).astype(np.uint8)
        return mask

    def _write_meta(self, wall_sec: float) -> None:
        t, source = self._tokenizer, self._source
        meta = {
            "format": FORMAT,
            "dtype": self._dtype.name,
            "has_mask": self._is_pairs,
            "tokenizer": {
                "name": t.name,
                "fingerprint": t.fingerprint,
                "vocab_size": t.vocab_size,
                "bos_id": t.bos_id,
                "eos_id": t.eos_id,
                "pad_id": t.pad_id,
            },
            "source": {
                "path": source.path,
                "files": _names(source),
                **source.model_dump(include={"config", "split", "revision"}),
                "fingerprint": self._digest.hexdigest(),
            },
            "held_out": self._held_out,
            "empty_documents": self._empty,
            "wall_sec": round(wall_sec, 3),
            "splits": {name: split.totals() for name, split in self._splits.items()},
            "files": {k: v for split in self._splits.values() for k, v in split.files.items()},
        }
        write_json(self._folder / "meta.json", sealed(meta))


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Group documents so that a batch holds about 1 Mi characters, or one longer document."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text) + len(document.prompt or "")
        if chars >= _BATCH_CHARS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _files(source: FileSource) -> list[Path]:
    """Return the files whose change makes other shards."""
    if isinstance(source, ParaphraseSource):
        return [pairs_file(source)]
    return local_files(source) if source.is_hub else corpus_files(source)


def _names(source: FileSource) -> list[str]:
    if isinstance(source, ParaphraseSource):
        return [PAIRS]
    return [] if source.is_hub or source.path == PYTHON_DOCS else file_names(source)


def _slug(source: FileSource) -> str:
    path = source.path
    if not isinstance(source, ParaphraseSource) and source.is_hub:
        path = data_set_name(source)
    stem = Path(path).name.split(".")[0]
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stem) or "corpus"
    )
