"""Rows of a data set of the Hugging Face Hub, streamed: nothing of it is kept but the shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from braidlm.arch.sources import HUB, Corpus
from braidlm.data.compression import needs
from braidlm.data.hub import commit_of, is_local, unreachable
from braidlm.errors import InputError


def data_set_name(source: Corpus) -> str:
    """Return what follows "hf:"."""
    return source.path.removeprefix(HUB)


def commit(source: Corpus) -> str:
    """Return the commit that a data set's revision is now, "" for a local folder.

    Raises:
        InputError: as `commit_of`, or a revision of a local folder.
    """
    name = data_set_name(source)
    if not is_local(name):
        return commit_of("dataset", name, source.revision)
    if source.revision:
        raise InputError(f"revision = '{source.revision}': '{source.path}' is a local folder")
    return ""


def local_files(source: Corpus) -> list[Path]:
    """Return the files of a local folder; none for a name of the hub.

    A name of the hub is known by what is declared: when its shards are there, no network is
    asked.
    """
    return sorted(f for f in Path(data_set_name(source)).rglob("*") if f.is_file())


def read_hub(source: Corpus, columns: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, {column: value}) of a data set, in its own order; None: all columns.

    Raises:
        InputError: without the package; no such data set, configuration, split or column; a
            connection that breaks. The message names the data set, and the row if one was read.
    """
    try:
        import datasets
    except ImportError:
        raise needs("datasets", "hf", f"'{source.path}'") from None
    name, number = data_set_name(source), 0
    try:
        rows = datasets.load_dataset(
            name,
            name=source.config or None,
            split=source.split,
            revision=source.revision or None,
            streaming=True,
        )
        if columns is not None and rows.column_names and set(columns) <= set(rows.column_names):
            rows = rows.select_columns(list(columns))
        for record in rows:
            number += 1
            yield number, record
    except Exception as error:
        raise _refusal(source, number, error) from None


def _refusal(source: Corpus, number: int, error: Exception) -> InputError:
    """Say what was wrong: with the declaration, the network, or a row."""
    reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
    asked = f"config '{source.config}', split '{source.split}'"
    if number:
        return InputError(f"'{source.path}', row {number + 1} cannot be read: {reason}")
    if isinstance(error, ConnectionError) or type(error).__module__.startswith("huggingface_hub"):
        return unreachable(data_set_name(source), error)
    return InputError(f"'{source.path}' ({asked}) cannot be read: {reason}")
