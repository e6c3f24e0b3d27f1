"""Readers of documents: text, JSON lines, Parquet, plain or packed, and the Python documents."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from braidlm.arch.sources import Corpus, TextSource
from braidlm.data.compression import PACKED, broken, open_bytes, why
from braidlm.data.hub_datasets import data_set_name, read_hub
from braidlm.data.python_docs import python_doc_files, read_python_docs
from braidlm.data.records import read_jsonl, read_lines, read_parquet, text_of
from braidlm.errors import InputError

PYTHON_DOCS = "python-docs"
SUFFIXES = (*(kind + packed for kind in (".txt", ".jsonl") for packed in PACKED), ".parquet")


class Document(NamedTuple):
    """One document of a corpus, or one prompt with its answer."""

    id: str
    text: str
    """What is learnt: the text, or the answer."""
    prompt: str | None = None
    """What stands before the answer; None in a corpus of plain text."""
    group: str | None = None
    """What several pairs are about, such as a passage; None: a pair is by itself."""

    @property
    def key(self) -> str:
        """What decides its half: what is asked, or asked about, in one is not in the other."""
        return self.group or self.prompt or self.text


class Record(NamedTuple):
    """One record of a corpus whose files hold records."""

    id: str
    """The file's path inside the folder, ":", and its line or row."""
    where: str
    """The same for messages."""
    fields: dict[str, Any]


def corpus_files(corpus: Corpus) -> list[Path]:
    """Return the files of a corpus in reading order.

    Its path is "python-docs", one file, or a folder (searched in depth, sorted by relative path;
    hidden files and other kinds of files are passed over, and so is what `files` leaves out).

    Raises:
        InputError: the path is missing, of another kind, or a folder without such files.
    """
    if corpus.path == PYTHON_DOCS:
        return python_doc_files()
    root = Path(corpus.path)
    if root.is_file():
        if not root.name.endswith(SUFFIXES):
            raise InputError(f"corpus {root} must end in one of {', '.join(SUFFIXES)}")
        if corpus.files:
            raise InputError(f"files = {list(corpus.files)}: corpus {root} is a file, not a folder")
        return [root]
    if not root.is_dir():
        raise InputError(f'corpus {root} does not exist: give a file, a folder or "{PYTHON_DOCS}"')
    return _chosen(root, corpus.files)


def file_names(corpus: Corpus) -> list[str]:
    """Return what the documents' ids call the files of a corpus, in reading order."""
    return [_name(file, Path(corpus.path)) for file in corpus_files(corpus)]


def read_corpus(source: TextSource) -> Iterator[Document]:
    """Yield the documents of a source in a fixed order, empty ones included.

    A .txt file is one document, kept as it is (only a byte order mark is dropped), unless the
    source's `documents` parts it; each line of a .jsonl file and each row of a .parquet file is
    one document, its text in the source's `field`. Lines end at "\\n" only. The id is the file's
    path inside the folder, with ":line" or ":row" where a file holds several documents.

    Raises:
        InputError: a file is unreadable, not UTF-8, or cut short; a line is not a JSON object
            or lacks a field. The message names file and line.
    """
    if source.path == PYTHON_DOCS:
        yield from (Document(*item) for item in read_python_docs())
        return
    if source.is_hub:
        for record in _hub_records(source, (source.field,)):
            yield Document(record.id, text_of(record.fields, source.field, record.where))
        return
    for file in corpus_files(source):
        name = _name(file, Path(source.path))
        if _kind(file) == ".txt":
            yield from _read_txt(file, name, source.documents)
        else:
            for record in _file_records(file, name, (source.field,)):
                yield Document(record.id, text_of(record.fields, source.field, record.where))


def read_records(source: Corpus, fields: Sequence[str] | None) -> Iterator[Record]:
    """Yield the records of .jsonl and .parquet files or of a data set, in a fixed order.

    Args:
        source: where they are.
        fields: columns that are read where reading all would cost more; None: all.

    Raises:
        InputError: as `read_corpus`, or a .txt file.
    """
    if source.is_hub:
        yield from _hub_records(source, fields)
        return
    for file in corpus_files(source):
        if _kind(file) == ".txt":
            raise InputError(f"corpus file {file} holds no records: give .jsonl or .parquet files")
        yield from _file_records(file, _name(file, Path(source.path)), fields)


def _hub_records(source: Corpus, fields: Sequence[str] | None) -> Iterator[Record]:
    name = Path(data_set_name(source)).name
    for number, found in read_hub(source, fields):
        yield Record(f"{name}:{number}", f"'{source.path}', row {number}", found)


def _chosen(root: Path, globs: Sequence[str]) -> list[Path]:
    files = [f for f in root.rglob("*") if f.name.endswith(SUFFIXES) and f.is_file()]
    shown = [f for f in files if not any(p.startswith(".") for p in f.relative_to(root).parts)]
    if not shown:
        raise InputError(f"corpus folder {root} holds no file that ends in {', '.join(SUFFIXES)}")
    taken = [f for f in shown if _is_taken(_name(f, root), globs)]
    if not taken:
        raise InputError(
            f"files = {list(globs)}: none of the {len(shown)} files of corpus folder {root} is left"
        )
    return sorted(taken, key=lambda f: _name(f, root))


def _is_taken(name: str, globs: Sequence[str]) -> bool:
    wanted = [g for g in globs if not g.startswith("!")]
    unwanted = [g[1:] for g in globs if g.startswith("!")]
    return (not wanted or _fits(name, wanted)) and not _fits(name, unwanted)


def _fits(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name if "/" in g else name.rpartition("/")[2], g) for g in globs)


def _name(file: Path, root: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()


def _kind(file: Path) -> str:
    return (Path(file.stem) if file.suffix in PACKED else file).suffix


def _file_records(file: Path, name: str, fields: Sequence[str] | None) -> Iterator[Record]:
    is_parquet = _kind(file) == ".parquet"
    unit = "row" if is_parquet else "line"
    for number, found in read_parquet(file, fields) if is_parquet else read_jsonl(file):
        yield Record(f"{name}:{number}", f"corpus file {file}, {unit} {number}", found)


def _read_txt(file: Path, name: str, documents: str) -> Iterator[Document]:
    if documents == "file":
        yield Document(name, _whole(file))
        return
    for number, text in _lines(file) if documents == "line" else _paragraphs(file):
        yield Document(f"{name}:{number}", text)


def _whole(file: Path) -> str:
    try:
        with open_bytes(file) as stream:
            data = stream.read()
    except broken() as error:
        raise InputError(f"corpus file {file} cannot be read: {why(error)}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise _not_utf8(file, line, data[error.start]) from None


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text without its end) of each line that is not blank."""
    for number, line in read_lines(file):
        if line.strip():
            yield number, _decoded(line, file, number).removesuffix("\n").removesuffix("\r")


def _paragraphs(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, text) of each run of lines that are not blank."""
    first, lines = 0, []
    for number, line in read_lines(file):
        if line.strip():
            first = first if lines else number
            lines.append(_decoded(line, file, number))
        elif lines:
            yield first, "".join(lines).removesuffix("\n").removesuffix("\r")
            lines = []
    if lines:
        yield first, "".join(lines).removesuffix("\n").removesuffix("\r")


def _decoded(line: bytes, file: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, number, line[error.start]) from None


def _not_utf8(file: Path, line: int, byte: int) -> InputError:
    return InputError(f"corpus file {file}, line {line}: byte 0x{byte:02x} is not UTF-8")
