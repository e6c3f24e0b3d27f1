"""What a GGUF file says of itself: keys with values, and where each tensor lies.

A file is, in little-endian order: ``GGUF``, a version, the numbers of tensors and of keys, the keys
with typed values, name, axes, type and place of each tensor, and then the tensors' bytes. Every
length is compared with what is left of the file before anything is read by it.

Source: the specification of GGUF in ggml-org/ggml, versions 2 and 3.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from braidlm.errors import InputError
from braidlm.foreign import MAGIC

VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
NUMBERS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
"""Types of values that have one size, as numpy names them."""
MAX_AXES = 4
ALIGNMENT = 32
"""Tensors begin at multiples of this many bytes, unless `general.alignment` says otherwise."""


class Stored(NamedTuple):
    """One tensor in a file."""

    shape: tuple[int, ...]
    """Rows first, as everywhere here; the file has it the other way round."""
    kind: int
    """Number of its type in ggml: 0 is fp32, 1 fp16, 2 Q4_0, ..."""
    start: int
    """First byte in the file."""


@dataclass(frozen=True)
class Header:
    """Everything in a file but the tensors' numbers."""

    path: Path
    fields: dict[str, Any]
    """Keys and values: bool, int, float, str, or a list of one of them."""
    tensors: dict[str, Stored]
    n_bytes: int
    """Of the file."""

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """Return a value of one type; without a default the key must be there.

        Raises:
            InputError: it is missing or of another type.
        """
        value = self.fields.get(key, default)
        if value is None:
            raise InputError(f"{self.path}: '{key}' is missing")
        is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_right and value is not default:
            raise InputError(f"{self.path}: {key} = {value!r:.80}: must be of type {kind.__name__}")
        return value


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read everything but the tensors' numbers.

    Raises:
        InputError: no such file, another form or version, a file that is cut short, or one that
            contradicts itself.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(path, file).header()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


class _Reader:
    """A file that is read from its beginning, never beyond its end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.n_bytes = os.fstat(file.fileno()).st_size
        self.at = "its beginning"
        """What is being read, for messages."""

    def header(self) -> Header:
        self._check_form()
        n_tensors, n_fields = self._number("<u8"), self._number("<u8")
        fields: dict[str, Any] = {}
        for i in range(n_fields):
            self.at = f"key {i + 1} of {n_fields}"
            key = self._string()
            self.at = f"the value of '{key:.80}'"
            if key in fields:
                raise InputError(f"{self.path}: key '{key:.80}' is there twice")
            fields[key] = self._value(self._number("<u4"))
        tensors = self._tensors(n_tensors)
        start = self._aligned(fields.get("general.alignment", ALIGNMENT))
        tensors = {k: t._replace(start=t.start + start) for k, t in tensors.items()}
        return Header(self.path, fields, tensors, self.n_bytes)

    def _check_form(self) -> None:
        if self.file.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{self.path} is no GGUF file: its first bytes are not 'GGUF'")
        version = self._number("<u4")
        if version not in VERSIONS:
            is_swapped = version & 0xFFFF == 0
            told = "a big-endian file" if is_swapped else f"version {version} of GGUF"
            raise InputError(f"{self.path} is {told}; read are little-endian ones of version 2, 3")

    def _tensors(self, n: int) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        for i in range(n):
            self.at = f"what is said of tensor {i + 1} of {n}"
            name, n_axes = self._string(), self._number("<u4")
            if name in found or not 1 <= n_axes <= MAX_AXES:
                told = "is there twice" if name in found else f"has {n_axes} axes"
                raise InputError(f"{self.path}: tensor '{name:.80}' {told}")
            shape = tuple(self._number("<u8") for _ in range(n_axes))[::-1]
            found[name] = Stored(shape, self._number("<u4"), self._number("<u8"))
        return found

    def _aligned(self, alignment: Any) -> int:
        """Return where the tensors' bytes begin."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise InputError(
                f"{self.path}: general.alignment = {alignment!r:.80}: must be a power of 2"
            )
        return -(-self.file.tell() // alignment) * alignment

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        found = self._number(NUMBERS.get(kind) or self._refuse(kind))
        # What its author wrote as 1e-5 is stored as the nearest fp32; this gives 1e-5 again.
        return float(str(np.float32(found))) if kind == 6 else found

    def _array(self) -> list[Any]:
        kind, n = self._number("<u4"), self._number("<u8")
        if kind == STRING:
            self._check_left(n * 8)  # each has a length at least
            return [self._string() for _ in range(n)]
        dtype = np.dtype(NUMBERS.get(kind) or self._refuse(kind))
        return np.frombuffer(self._bytes(n * dtype.itemsize), dtype).tolist()

    def _string(self) -> str:
        data = self._bytes(self._number("<u8"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {self.at} holds text that is no UTF-8") from None

    def _number(self, dtype: str) -> Any:
        data = self._bytes(np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype)[0].item()

    def _bytes(self, n: int) -> bytes:
        self._check_left(n)
        return self.file.read(n)

    def _check_left(self, n: int) -> None:
        if n > self.n_bytes - self.file.tell():
            raise InputError(f"{self.path} is cut short or damaged: it ends in {self.at}")

    def _refuse(self, kind: int) -> str:
        known = ", ".join(map(str, sorted([*NUMBERS, STRING, ARRAY])))
        raise InputError(f"{self.path}: {self.at} is of type {kind}; allowed: {known}")
