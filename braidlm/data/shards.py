"""Tokenised corpora on disk: memory-mapped, checked, never read half-written.

A shard folder holds `meta.json` and, for each split ("train", "held_out") and shard number,

    train-00000.bin    every document's tokens end to end, uint16 or uint32, little-endian
    train-00000.idx    (n_docs + 1,) int64: the offset of each document in the .bin, in tokens
    train-00000.bytes  (n_docs,) int64: UTF-8 bytes of each document's text
    train-00000.ids    one JSON string a line: where each document came from
    train-00000.mask   of pairs alone, uint8 for each token: bit 0 it is learnt, bit 1 it is
                       of the prompt, bit 2 a sentence ends with it (of paraphrases alone)

Every document is stored whole in one shard as bos, its text, eos; a pair as bos, prompt, answer,
eos; a paraphrase as bos, the text, its paraphrase, eos.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from braidlm.data.verified import Verified
from braidlm.errors import InputError
from braidlm.files import is_unaltered, read_json

FORMAT = 2
SPLITS = ("train", "held_out")

LEARNT, PROMPT, UNIT_END = 1, 2, 4
"""Bits of a pair's mask; the last one of a paraphrase's alone, see `braidlm.data.units`."""

Verify = bool | Literal["all"]
"""Whether checksums are compared: False no, True those of files that were touched since they
were last compared, "all" every one."""


class TokenDocument(NamedTuple):
    """One tokenised document."""

    id: str
    """Where it came from: file, or file:line."""
    tokens: np.ndarray
    """(n,) int64: bos, the text, eos."""
    n_bytes: int
    """UTF-8 bytes of its text."""


class Split:
    """The documents of one half of a corpus, in corpus order."""

    def __init__(self, folder: Path, stems: list[str], dtype: np.dtype, has_mask: bool):
        self._folder, self._stems = folder, stems
        masked = stems if has_mask else []
        self._masks = [_map(folder / f"{stem}.mask", np.dtype("u1")) for stem in masked]
        offsets = [_map(folder / f"{stem}.idx", np.dtype("<i8")) for stem in stems]
        self._tokens = [_map(folder / f"{stem}.bin", dtype) for stem in stems]
        self._offsets = offsets
        counts = [len(o) - 1 for o in offsets]
        self._first = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        for stem, offset, tokens in zip(stems, offsets, self._tokens, strict=True):
            _check_offsets(folder / f"{stem}.idx", offset, len(tokens))
        for stem, mask, tokens in zip(masked, self._masks, self._tokens, strict=False):
            _check_mask(folder / f"{stem}.mask", len(mask), len(tokens))

    def __len__(self) -> int:
        return int(self._first[-1])

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n_docs,) int64: tokens of each document, bos and eos included."""
        parts = [np.diff(o) for o in self._offsets]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    @cached_property
    def n_bytes(self) -> np.ndarray:
        """(n_docs,) int64: UTF-8 bytes of each document's text."""
        parts = [_map(self._folder / f"{s}.bytes", np.dtype("<i8")) for s in self._stems]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    @cached_property
    def ids(self) -> list[str]:
        """Where each document came from."""
        texts = ((self._folder / f"{s}.ids").read_text(encoding="utf-8") for s in self._stems)
        return [json.loads(line) for text in texts for line in text.split("\n") if line]

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        """Return tokens start..stop-1 of a document, in the stored dtype, without copying."""
        return self._slice(self._tokens, document, start, stop)

    def read_mask(self, document: int, start: int, stop: int) -> np.ndarray:
        """Return the mask of tokens start..stop-1 of a pair, uint8 of `LEARNT` and `PROMPT`."""
        return self._slice(self._masks, document, start, stop)

    def _slice(self, of: list[np.ndarray], document: int, start: int, stop: int) -> np.ndarray:
        shard = int(np.searchsorted(self._first, document, side="right")) - 1
        begin = int(self._offsets[shard][document - self._first[shard]])
        return of[shard][begin + start : begin + stop]

    def documents(self, order: np.ndarray | None = None) -> Iterator[TokenDocument]:
        """Yield the documents, in corpus order or in `order`."""
        for i in range(len(self)) if order is None else order.tolist():
            tokens = self.read(i, 0, int(self.lengths[i])).astype(np.int64)
            yield TokenDocument(self.ids[i], tokens, int(self.n_bytes[i]))


class ShardSet:
    """An opened shard folder."""

    def __init__(self, folder: Path, meta: dict[str, Any]):
        self.folder, self.meta = folder, meta
        dtype = np.dtype(meta["dtype"]).newbyteorder("<")
        stems = {split: [s["name"] for s in meta["splits"][split]["shards"]] for split in SPLITS}
        self.has_mask: bool = meta["has_mask"]
        self.train = Split(folder, stems["train"], dtype, self.has_mask)
        self.held_out = Split(folder, stems["held_out"], dtype, self.has_mask)

    def verify(self, split: str) -> None:
        """Compare the checksums of one split's files.

        Raises:
            InputError: naming the first file that was altered.
        """
        files = self.meta["files"]
        mine = {name: files[name] for name in files if name.startswith(f"{split}-")}
        _check_files(self.folder, mine, True)

    def summary(self) -> dict[str, Any]:
        """Return counts of each split: documents, tokens, bytes."""
        names = ("documents", "tokens", "bytes")
        return {s: {n: self.meta["splits"][s][n] for n in names} for s in SPLITS}


def open_shards(
    folder: str | Path, *, fingerprint: str | None = None, verify: Verify = False
) -> ShardSet:
    """Open a shard folder.

    File sizes and offsets are always checked; `verify` compares checksums too, which reads the
    files (about 1 GB/s).

    Args:
        folder: what `build_shards` returned.
        fingerprint: if given, the tokenizer fingerprint that the shards must have.
        verify: True reads the files that were touched since they were last found whole, as
            `.verified.json` in the folder says; "all" reads every file.

    Raises:
        InputError: no shard folder, another format, another tokenizer, or a file that is
            missing, truncated or altered; the message names the file.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    if fingerprint is not None and meta["tokenizer"]["fingerprint"] != fingerprint:
        raise InputError(
            f"shards {folder} were made by another tokenizer ({meta['tokenizer']['name']}): "
            "tokenise the corpus again"
        )
    _check_files(folder, meta["files"], verify)
    return ShardSet(folder, meta)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"shard folder {folder} does not exist")
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{folder / 'meta.json'} must have format {FORMAT}: tokenise again")
    missing = {"dtype", "has_mask", "tokenizer", "source", "splits", "files"} - set(meta)
    if missing:
        raise InputError(f"{folder / 'meta.json'} lacks {', '.join(sorted(missing))}")
    for field in ("tokenizer", "source", "splits", "files", "dtype", "has_mask"):
        if not _is_sound(field, meta):
            raise InputError(
                f"{folder / 'meta.json'}: '{field}' was altered: delete {folder} and build it again"
            )
    if not is_unaltered(meta):
        raise InputError(
            f"{folder / 'meta.json'} was altered (its own checksum differs): "
            f"delete {folder} and build it again"
        )
    return meta


def _is_sound(field: str, meta: dict[str, Any]) -> bool:
    """Whether a field of meta.json has the parts that are read."""
    value = meta[field]
    if field == "dtype":
        return value in ("uint16", "uint32")
    if field == "has_mask":
        return isinstance(value, bool) and value == any(f.endswith(".mask") for f in meta["files"])
    if not isinstance(value, dict):
        return False
    if field == "files":
        return all(isinstance(f, dict) and {"bytes", "sha256"} <= set(f) for f in value.values())
    if field == "splits":
        parts = [value.get(split) for split in SPLITS]
        names = {"documents", "tokens", "bytes", "shards"}
        return all(isinstance(part, dict) and names <= set(part) for part in parts)
    return {"fingerprint", "name" if field == "tokenizer" else "path"} <= set(value)


def _check_files(folder: Path, files: dict[str, dict[str, Any]], verify: Verify) -> None:
    verified = Verified(folder)
    try:
        for name, expected in files.items():
            _check_size(folder / name, expected["bytes"])
            if verify == "all" or (verify and not verified.holds(name, expected["sha256"])):
                _check_sum(folder / name, expected["sha256"])
                verified.add(name, expected["sha256"])
    finally:
        verified.save()


def _check_size(path: Path, n_bytes: int) -> None:
    advice = f"delete {path.parent} and build it again"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"shard {path} cannot be read ({error.strerror}): {advice}") from None
    if size != n_bytes:
        raise InputError(f"shard {path} has {size} bytes, not {n_bytes}: {advice}")


def _check_sum(path: Path, sha256: str) -> None:
    if file_sha256(path) != sha256:
        raise InputError(
            f"shard {path} was altered (its checksum differs): "
            f"delete {path.parent} and build it again"
        )


def _check_offsets(path: Path, offsets: np.ndarray, n_tokens: int) -> None:
    if offsets[0] != 0 or offsets[-1] != n_tokens or (np.diff(offsets) < 0).any():
        raise InputError(f"shard {path} was altered: delete {path.parent} and build it again")


def _check_mask(path: Path, n_mask: int, n_tokens: int) -> None:
    if n_mask != n_tokens:
        raise InputError(f"shard {path} was altered: delete {path.parent} and build it again")


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    # A plain array view of the mapping: np.memmap's own slicing costs several times as much.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
