"""Readers of documents: text files, JSON lines, plain or compressed, and the Python documents."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from braidlm.data.python_docs import python_doc_files, read_python_docs
from braidlm.errors import InputError

PYTHON_DOCS = "python-docs"
SUFFIXES = tuple(kind + packed for kind in (".txt", ".jsonl") for packed in ("", ".gz", ".xz"))
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


class Document(NamedTuple):
    """One document of a corpus."""

    id: str
    text: str


def corpus_files(path: str | Path) -> list[Path]:
    """Return the files of a corpus in reading order.

    `path` is "python-docs", one file, or a folder (searched in depth, sorted by relative path;
    hidden files and other kinds of files are passed over).

    Raises:
        InputError: the path is missing, of another kind, or a folder without such files.
    """
    if str(path) == PYTHON_DOCS:
        return python_doc_files()
    root = Path(path)
    if root.is_file():
        if not root.name.endswith(SUFFIXES):
            raise InputError(f"corpus {root} must end in one of {', '.join(SUFFIXES)}")
        return [root]
    if not root.is_dir():
        raise InputError(f'corpus {root} does not exist: give a file, a folder or "{PYTHON_DOCS}"')
    files = [f for f in root.rglob("*") if f.name.endswith(SUFFIXES) and f.is_file()]
    shown = [f for f in files if not any(p.startswith(".") for p in f.relative_to(root).parts)]
    if not shown:
        raise InputError(f"corpus folder {root} holds no file that ends in {', '.join(SUFFIXES)}")
    return sorted(shown, key=lambda f: f.relative_to(root).as_posix())


def read_corpus(path: str | Path, text_field: str = "text") -> Iterator[Document]:
    """Yield the documents of a corpus in a fixed order, empty ones included.

    A .txt file is one document, kept as it is (only a byte order mark is dropped); each line of
    a .jsonl file is one document, its text in the field `text_field`. Lines end at "\\n" only.
    The id is the file's path inside the folder, with ":line" for JSON lines.

    Raises:
        InputError: a file is unreadable, not UTF-8, or cut short; a line is not a JSON object
            or lacks the text field. The message names file and line.
    """
    if str(path) == PYTHON_DOCS:
        yield from (Document(*item) for item in read_python_docs())
        return
    root = Path(path)
    for file in corpus_files(root):
        name = file.name if file == root else file.relative_to(root).as_posix()
        if ".jsonl" in file.suffixes:
            yield from _read_jsonl(file, name, text_field)
        else:
            yield _read_txt(file, name)


def _open(file: Path) -> BinaryIO | gzip.GzipFile | lzma.LZMAFile:
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    return lzma.open(file, "rb") if file.suffix == ".xz" else file.open("rb")


def _read_txt(file: Path, name: str) -> Document:
    try:
        with _open(file) as stream:
            data = stream.read()
    except _BROKEN as error:
        raise InputError(f"corpus file {file} cannot be read: {_why(error)}") from None
    try:
        return Document(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise InputError(
            f"corpus file {file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8"
        ) from None


def _read_jsonl(file: Path, name: str, text_field: str) -> Iterator[Document]:
    for number, line in _lines(file):
        if line.strip():
            yield Document(f"{name}:{number}", _text_of(line, f"{file}, line {number}", text_field))


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _open(file) as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line
    except _BROKEN as error:
        raise InputError(
            f"corpus file {file}, line {number + 1} cannot be read: {_why(error)}"
        ) from None


def _text_of(line: bytes, where: str, text_field: str) -> str:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        bad = line[error.start]
        raise InputError(f"corpus file {where}: byte 0x{bad:02x} is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"corpus file {where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"corpus file {where} must be a JSON object, not {record!r:.40}")
    if text_field not in record:
        fields = ", ".join(map(str, record)) or "none"
        raise InputError(f'corpus file {where} has no field "{text_field}" (fields: {fields})')
    if not isinstance(record[text_field], str):
        kind = type(record[text_field]).__name__
        raise InputError(f'corpus file {where}: field "{text_field}" must be text, not {kind}')
    return record[text_field]


def _why(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return reason or type(error).__name__
