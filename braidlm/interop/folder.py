"""A folder in the form of the Hugging Face Hub: configuration, weights, and what travels along."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm import tensors
from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.tensors import About, Held, Shards, Source

CONFIG, GENERATION = "config.json", "generation_config.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"),
    *("chat_template.jinja", "chat_template.json"),
)
"""Files that together are a tokenizer."""
MAX_SHARD_BYTES = 5 * 10**9


class Made(NamedTuple):
    """A file that travels along and lies nowhere yet."""

    name: str
    data: bytes


Along = Path | Made


# reading


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the configuration of a folder.

    Raises:
        InputError: no folder, no configuration in it, or none that is a JSON object.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file, but no GGUF file; else a folder is read, as a whole")
    if not folder.is_dir():
        is_like_a_hub_name = len(folder.parts) == 2 and not folder.parent.exists()
        fetch = f"; nothing is fetched here: 'hf download {folder} --local-dir DIR' does"
        hint = fetch if is_like_a_hub_name else ""
        raise InputError(f"{folder} is no folder of a checkpoint: no such folder{hint}")
    files = sorted(folder.glob("*.gguf"))
    if files and not (folder / CONFIG).is_file():
        raise InputError(f"{folder} holds no {CONFIG}; give a file of it, such as {files[0]}")
    found = read_json(folder / CONFIG)
    if not isinstance(found, dict):
        raise InputError(f"{folder / CONFIG} must be a JSON object, not {found!r:.40}")
    if found.get("quantization_config"):
        raise InputError(
            f"{folder / CONFIG}: config field quantization_config is given; "
            "quantised weights are not read, only floats"
        )
    return found


def source(folder: Path, *, weights_only_pickle: bool = False) -> Source:
    """Return the tensors of a folder; safetensors files come first.

    Args:
        folder: of the checkpoint.
        weights_only_pickle: whether pickled tensors may be read. They are by an unpickler that
            makes tensors and plain values and nothing else.

    Raises:
        InputError: no weights, pickled ones without leave, or files that are missing or damaged.
    """
    if files := _weight_files(folder, SAFE):
        return Shards(files)
    if files := _weight_files(folder, PICKLED):
        if not weights_only_pickle:
            raise InputError(
                f"{files[0]} is a pickle, which can run code: give --weights-only-pickle to read "
                "tensors from it and nothing else, or convert it to safetensors"
            )
        return _unpickled(files)
    raise InputError(f"{folder} holds no weights: {SAFE} or {SAFE}.index.json is needed")


def _weight_files(folder: Path, name: str) -> list[Path]:
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return [folder / name] if (folder / name).is_file() else []
    found = read_json(index)
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index} must hold a 'weight_map' from tensors to files")
    for file in names.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{index}: {file!r:.80} is no name of a file beside it")
    return [folder / file for file in sorted(set(names.values()))]


def _unpickled(files: Sequence[Path]) -> Held:
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            part = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except FileNotFoundError:
            raise InputError(f"{file} is missing") from None
        except Exception as error:  # the unpickler raises whatever the bytes lead it to
            raise InputError(f"{file} is not readable as pickled tensors: {_why(error)}") from None
        is_plain = isinstance(part, Mapping) and all(isinstance(t, Tensor) for t in part.values())
        if not is_plain:
            raise InputError(f"{file} holds something else than named tensors")
        found |= part
    return Held(found)


def _why(error: Exception) -> str:
    """Say what is wrong with a pickle; PyTorch's advice to run what it holds is left out."""
    code = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if code is not None:
        return f"it holds {code[1]}, which is code; nothing of it was run"
    return " ".join(str(error).split())[:200]


def travelling(folder: Path) -> list[Path]:
    """Return the files of a folder that go along with a model: tokenizer, generation settings."""
    return [folder / name for name in (*TOKENIZER, GENERATION) if (folder / name).is_file()]


# writing


class Writing:
    """A new folder that is there whole, or not at all: ``with Writing(path) as temporary``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        check_free(self.path)
        try:
            self.temporary.mkdir(parents=True)
        except OSError as error:
            error.filename = str(self.path)
            raise
        return self.temporary

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is None:
                if self.path.is_dir():
                    self.path.rmdir()
                os.rename(self.temporary, self.path)
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)
            if isinstance(error, OSError):  # a full disk names no file
                error.filename = str(self.path)


def check_free(path: Path) -> None:
    """Refuse a path that holds something.

    Raises:
        InputError: a file, or a folder that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there already; give a new or empty folder")


def write_weights(
    folder: Path,
    about: Mapping[str, About],
    named: Iterator[tuple[str, Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors, as they come, into one safetensors file or several and their index.

    Args:
        folder: that takes the files.
        about: every tensor that will come, in order.
        named: (name, tensor).
        max_shard_bytes: no file is larger, unless one tensor is.
    """
    shards = _shards(about, max_shard_bytes)
    if len(shards) == 1:
        tensors.write(folder / SAFE, about, named)
        return
    names = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        part = {name: about[name] for name in shard}
        tensors.write(folder / file, part, (next(named) for _ in shard))
        names |= dict.fromkeys(shard, file)
    total = sum(map(tensors.n_bytes, about.values()))
    index = {"metadata": {"total_size": total}, "weight_map": names}
    write_json(folder / f"{SAFE}.index.json", index)


def _shards(about: Mapping[str, About], limit: int) -> list[list[str]]:
    numbers: list[tuple[int, str]] = []
    number, size = 0, 0
    for name, one in about.items():
        if size and size + tensors.n_bytes(one) > limit:
            number, size = number + 1, 0
        size += tensors.n_bytes(one)
        numbers.append((number, name))
    return [[name for _, name in group] for _, group in groupby(numbers, key=lambda x: x[0])]


def copy_along(files: Sequence[Along], folder: Path) -> None:
    """Copy what travels along."""
    for file in files:
        if isinstance(file, Made):
            (folder / file.name).write_bytes(file.data)
        else:
            shutil.copyfile(file, folder / file.name)
