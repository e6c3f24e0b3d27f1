"""Records of a file, one by one: the objects of JSON lines and the rows of Parquet."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from braidlm.data.compression import broken, needs, open_bytes, why
from braidlm.errors import InputError

_PARQUET_ROWS = 256


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line with its end) of a file; lines end at "\\n" only.

    Raises:
        InputError: the file is unreadable or damaged; the message names file and line.
    """
    number = 0
    try:
        with open_bytes(file) as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line
    except broken() as error:
        raise InputError(
            f"corpus file {file}, line {number + 1} cannot be read: {why(error)}"
        ) from None


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of a file of JSON lines; blank lines are passed over.

    Raises:
        InputError: naming file and line, as `read_lines`, or what is no UTF-8 or no JSON object.
    """
    for number, line in read_lines(file):
        if line.strip():
            yield number, _object_of(line, f"{file}, line {number}")


def read_parquet(file: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, {column: value}) of a Parquet file.

    Only these columns are read (None: all), one row group at a time and a few rows of it at once.

    Raises:
        InputError: without the package, no Parquet file, a damaged one, or a column that is not
            there; the message names the file, and the row group that is damaged.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise needs("pyarrow", "data", f"corpus file {file}") from None
    broken_parquet = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
    try:
        table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
    except broken_parquet as error:
        raise InputError(
            f"corpus file {file} cannot be read as Parquet: {_first_line(error)}"
        ) from None
    number = group = 0
    wanted = None if columns is None else list(columns)
    with table:
        for column in columns or ():
            _check_column(table.schema_arrow.names, column, f"corpus file {file}")
        try:
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(_PARQUET_ROWS, [group], wanted):
                    for record in batch.to_pylist():
                        number += 1
                        yield number, record
        except broken_parquet as error:
            raise InputError(
                f"corpus file {file}, row group {group + 1} of {table.num_row_groups} cannot be "
                f"read: {_first_line(error)}"
            ) from None


def text_of(record: dict[str, Any], field: str, where: str) -> str:
    """Return the text in a field of a record.

    Raises:
        InputError: the field is absent or holds no text; the message begins with `where`.
    """
    _check_column(record, field, where)
    if not isinstance(record[field], str):
        kind = type(record[field]).__name__
        raise InputError(f'{where}: field "{field}" must be text, not {kind}')
    return record[field]


def _check_column(there: Any, field: str, where: str) -> None:
    if field not in there:
        fields = ", ".join(map(str, there)) or "none"
        raise InputError(f'{where} has no field "{field}" (fields: {fields})')


def _object_of(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        bad = line[error.start]
        raise InputError(f"corpus file {where}: byte 0x{bad:02x} is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"corpus file {where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"corpus file {where} must be a JSON object, not {record!r:.40}")
    return record


def _first_line(error: BaseException) -> str:
    return why(error).partition("\n")[0]
