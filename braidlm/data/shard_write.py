"""Write the shards of one split, with sizes and checksums taken on the way."""

import hashlib
import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np


class _Growing:
    """A file that is written piece by piece."""

    def __init__(self, path: Path):
        self._stream, self._digest, self._size = path.open("wb"), hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._size += len(data)

    def abandon(self) -> None:
        self._stream.close()

    def close(self) -> dict[str, Any]:
        _flush(self._stream)
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}


class _ShardWriter:
    """The files of one shard, with checksums taken while writing."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype, has_mask: bool):
        self.name, self._folder, self._dtype = name, folder, dtype
        self.offsets, self.n_bytes = array("q", [0]), array("q")
        self._ids: list[str] = []
        suffixes = ("bin", "mask") if has_mask else ("bin",)
        self._growing = {suffix: _Growing(folder / f"{name}.{suffix}") for suffix in suffixes}

    def add(
        self, document_id: str, tokens: np.ndarray, n_bytes: int, mask: np.ndarray | None
    ) -> None:
        self._growing["bin"].write(tokens.astype(self._dtype).tobytes())
        if mask is not None:
            self._growing["mask"].write(mask.astype(np.uint8).tobytes())
        self.offsets.append(self.offsets[-1] + len(tokens))
        self.n_bytes.append(n_bytes)
        self._ids.append(json.dumps(document_id) + "\n")

    def abandon(self) -> None:
        for file in self._growing.values():
            file.abandon()

    def close(self) -> dict[str, dict[str, Any]]:
        """Write what remains and return the size and checksum of each file."""
        files = {f"{self.name}.{suffix}": file.close() for suffix, file in self._growing.items()}
        rest = {
            "idx": np.asarray(self.offsets, dtype="<i8").tobytes(),
            "bytes": np.asarray(self.n_bytes, dtype="<i8").tobytes(),
            "ids": "".join(self._ids).encode(),
        }
        for suffix, data in rest.items():
            stream = (self._folder / f"{self.name}.{suffix}").open("wb")
            stream.write(data)
            _flush(stream)
            digest = hashlib.sha256(data).hexdigest()
            files[f"{self.name}.{suffix}"] = {"bytes": len(data), "sha256": digest}
        return files


class SplitWriter:
    """The shards of one split."""

    def __init__(
        self, folder: Path, split: str, dtype: np.dtype, max_tokens: int, has_mask: bool = False
    ):
        self._folder, self._split, self._dtype, self._max = folder, split, dtype, max_tokens
        self._has_mask = has_mask
        self._open: _ShardWriter | None = None
        self.files: dict[str, dict[str, Any]] = {}
        self.shards: list[dict[str, Any]] = []

    def add(
        self, document_id: str, tokens: np.ndarray, n_bytes: int, mask: np.ndarray | None = None
    ) -> None:
        """Append a document, with its mask in a split that has one; close a full shard."""
        if self._open is None:
            name = f"{self._split}-{len(self.shards):05d}"
            self._open = _ShardWriter(self._folder, name, self._dtype, self._has_mask)
        self._open.add(document_id, tokens, n_bytes, mask)
        if self._open.offsets[-1] >= self._max:
            self.finish()

    def abandon(self) -> None:
        """Close what is open without finishing it."""
        if self._open is not None:
            self._open.abandon()

    def finish(self) -> None:
        """Close the open shard and record its files and counts."""
        if (shard := self._open) is None:
            return
        self.files |= shard.close()
        self.shards.append(
            {
                "name": shard.name,
                "documents": len(shard.n_bytes),
                "tokens": shard.offsets[-1],
                "bytes": sum(shard.n_bytes),
            }
        )
        self._open = None

    def totals(self) -> dict[str, Any]:
        """Return documents, tokens and bytes of the split, and each shard's own."""
        names = ("documents", "tokens", "bytes")
        return {n: sum(s[n] for s in self.shards) for n in names} | {"shards": self.shards}


def _flush(stream: Any) -> None:
    with stream:
        stream.flush()
        os.fsync(stream.fileno())
