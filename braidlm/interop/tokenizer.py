"""The tokenizer of an imported run: what lies beside the weights, or what is given instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.arch.sources import HUB, RUN
from braidlm.errors import InputError
from braidlm.foreign import is_gguf
from braidlm.gguf import read_header
from braidlm.gguf.tokenizer import has_tokenizer, tokenizer_files
from braidlm.interop import folder
from braidlm.interop.folder import Along, Made

TRAVELLING = "hf"
"""Folder of a run that holds what came with a checkpoint and goes with it again."""
BYTES, NONE = "bytes", "none"
ADVICE = "give another by --tokenizer NAME, or --tokenizer none for a run without"
MADE_OF = "braid_tokenizer"
"""Field of an exported configuration: "bytes", where no file can say which tokenizer it is."""


class Chosen(NamedTuple):
    """The tokenizer of a run that is being made."""

    name: str
    """In the run's recipe."""
    files: tuple[Along, ...]
    """What is copied into the run: also settings that are no part of a tokenizer."""
    is_there: bool
    """Whether there is one at all."""


def of_place(path: Path) -> str | None:
    """Return what names the tokenizer of a folder or of a GGUF file; None: it has none."""
    if is_gguf(path):
        return str(path) if has_tokenizer(read_header(path)) else None
    has_one = any(file.name in folder.TOKENIZER[:3] for file in folder.travelling(path))
    return f"{HUB}{path}" if has_one else None


def said_by(path: Path, config: Mapping[str, Any]) -> str | None:
    """Return the tokenizer that a place with this configuration names; None: none."""
    return BYTES if config.get(MADE_OF) == BYTES else of_place(path)


def choose(
    path: Path, config: Mapping[str, Any], vocab_size: int, given: str | None = None
) -> Chosen:
    """Return the tokenizer of a checkpoint.

    Args:
        path: folder of the weights, or a GGUF file.
        config: its configuration.
        vocab_size: of the model.
        given: what is taken instead: as `load_tokenizer` names it, or "none".

    Raises:
        InputError: it cannot be read, or has more tokens than the model.
    """
    name = said_by(path, config) if given is None else None if given == NONE else given
    settings = tuple(f for f in folder.travelling(path) if f.name == folder.GENERATION)
    if name is None:
        return Chosen(f"{RUN}{TRAVELLING}", settings, is_there=False)
    try:
        files = files_of(name)
    except InputError as error:
        raise InputError(f"{error}; {ADVICE}") from None
    if not files or any(file.name == "tokenizer.json" for file in files):
        _check_fits(name, vocab_size)
    return Chosen(f"{RUN}{TRAVELLING}" if files else name, (*files, *settings), is_there=True)


def files_of(name: str) -> tuple[Along, ...]:
    """Return the files of a tokenizer on this machine that travel."""
    if is_gguf(name):
        made = tokenizer_files(read_header(name))
        return tuple(Made(file, data) for file, data in made.items())
    place = Path(name.removeprefix(HUB))
    if name.startswith(HUB) and place.is_dir():
        return tuple(f for f in folder.travelling(place) if f.name != folder.GENERATION)
    return (place,) if name != BYTES and place.name == "tokenizer.json" else ()


def _check_fits(name: str, vocab_size: int) -> None:
    """Read a tokenizer as a task would, so that a run that none can be asked of is not made."""
    from braidlm.data.tokenizer import load_tokenizer

    try:
        n_tokens = load_tokenizer(name).vocab_size
    except InputError as error:
        raise InputError(f"{error}; {ADVICE}") from None
    if n_tokens > vocab_size:
        raise InputError(
            f"tokenizer {name} has {n_tokens} tokens, more than the model's {vocab_size}; {ADVICE}"
        )
