"""Tensors in files: read one at a time, and written one at a time, without holding a model.

A safetensors file is eight bytes with the length of a JSON header, the header, and the tensors'
bytes one after the other. A file is opened anew for each tensor, so that the pages of those before
it do not stay in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from braidlm.errors import InputError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
    "U8": torch.uint8,
}
WRITTEN = {dtype: name for name, dtype in DTYPES.items()}


class About(NamedTuple):
    """What is known of a tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Source(Protocol):
    """Where tensors come from."""

    @property
    def about(self) -> Mapping[str, About]:
        """Every tensor, by name."""
        ...

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        ...


class Held:
    """Tensors that are in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.about = {name: About(tuple(t.shape), t.dtype) for name, t in tensors.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        return self.tensors[name]


class Shards:
    """Tensors in one or more safetensors files.

    Raises:
        InputError: a file is missing, cut short, or no such file.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.about: dict[str, About] = {}
        self.files: dict[str, Path] = {}
        for file in files:
            with _opened(file) as inner:
                for name in inner.keys():  # noqa: SIM118 (the handle is no dict)
                    self.about[name] = _about(inner.get_slice(name), file, name)
                    self.files[name] = file

    def read(self, name: str) -> Tensor:
        """Return one tensor, mapped from its file."""
        with _opened(self.files[name]) as inner:
            return inner.get_tensor(name)


def _about(view: Any, file: Path, name: str) -> About:
    dtype = DTYPES.get(view.get_dtype())
    if dtype is None:
        known = ", ".join(DTYPES)
        raise InputError(f"{file}: '{name}' has dtype {view.get_dtype()}; allowed: {known}")
    return About(tuple(view.get_shape()), dtype)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt") as inner:
            yield inner
    except SafetensorError as error:
        raise InputError(f"{file} is cut short or no safetensors file: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None


def write(file: Path, about: Mapping[str, About], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file, each tensor as it comes.

    Args:
        file: to make.
        about: every tensor that will come, in order.
        tensors: (name, tensor), in that order and of these shapes and dtypes.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in about.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {
            "dtype": WRITTEN[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    expected = iter(about.items())
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for name, tensor in tensors:
            assert (name, About(tuple(tensor.shape), tensor.dtype)) == next(expected), name
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            out.write(flat.view(torch.uint8).numpy().data)
    assert next(expected, None) is None


def write_held(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors that are in memory, as `write` does."""
    write(file, Held(tensors).about, tensors.items())


def n_bytes(about: About) -> int:
    """Return the bytes of a tensor."""
    return torch.Size(about.shape).numel() * about.dtype.itemsize


def write_torch(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values to one file, which `torch.load(weights_only=True)` reads.

    Raises:
        OSError: the system's own error; `path` is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", buffering=1 << 20) as file:
            remembering = _Remembering(file)
            try:
                torch.save(dict(value), remembering)  # pyright: ignore[reportArgumentType]
            except RuntimeError as error:
                if remembering.error is None:
                    raise
                raise remembering.error from error
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class _Remembering:
    """A file for `torch.save`, which otherwise hides the system's error behind a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error
            raise
