import os
import sys

import pytest

from braidlm.data.corpora import read_corpus
from braidlm.data.records import read_parquet
from braidlm.errors import InputError

from .conftest import make_text, source_of

TEXTS = [make_text(i, 1 + i % 40) for i in range(1000)]


@pytest.fixture
def table(tmp_path):
    """1000 documents in row groups of 100, between two other columns."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    columns = {"id": range(1000), "text": TEXTS, "nested": [{"a": [i]} for i in range(1000)]}
    pq.write_table(
        pa.table({k: list(v) for k, v in columns.items()}),
        path,
        row_group_size=100,
        write_page_checksum=True,
    )
    return path


def test_the_rows_of_a_parquet_file_are_documents(table, tmp_path):
    found = list(read_corpus(source_of(tmp_path)))
    assert [d.text for d in found] == TEXTS
    assert [found[i].id for i in (0, 999)] == ["a.parquet:1", "a.parquet:1000"]


def test_a_row_group_at_a_time_is_read(table, monkeypatch):
    import pyarrow.parquet as pq

    asked = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a: asked.append(a[2:]) or real(*a))
    rows = read_parquet(table, ["text"])
    assert next(rows) == (1, {"text": TEXTS[0]})
    assert asked == [([0], ["text"])]
    assert len(list(rows)) == 999
    assert [groups for groups, _ in asked] == [[i] for i in range(10)]


@pytest.mark.parametrize("kind", ["large_string", "dictionary"])
def test_other_ways_to_store_text(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    array = pa.array(["x", "y", "x"])
    array = array.dictionary_encode() if kind == "dictionary" else array.cast(pa.large_string())
    pq.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    assert [d.text for d in read_corpus(source_of(tmp_path / "a.parquet"))] == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], r'row 1: field "text" must be text, not int'),
        (["x", None], r'row 2: field "text" must be text, not NoneType'),
        ([b"x"], r'row 1: field "text" must be text, not bytes'),
    ],
)
def test_a_row_without_text_is_named(tmp_path, values, message):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"corpus file .*a\.parquet, {message}"):
        list(read_corpus(source_of(tmp_path / "a.parquet")))


def test_an_absent_column_is_named(table):
    with pytest.raises(InputError, match=r'a\.parquet has no field "body" \(fields: id, text, nes'):
        list(read_corpus(source_of(table, field="body")))


def _inside_the_text(table, group):
    import pyarrow.parquet as pq

    column = pq.ParquetFile(table).metadata.row_group(group).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    return start + column.total_compressed_size // 2


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "head", "page"])
def test_a_damaged_parquet_file_is_named(table, damage):
    data = bytearray(table.read_bytes())
    if damage == "page":
        data[_inside_the_text(table, 6)] ^= 0xFF
    elif damage == "head":
        data[-40:-8] = b"\xff" * 32
    else:
        data = {"cut": data[:-100], "empty": b"", "text": b"plain text"}[damage]
    table.write_bytes(data)
    group = ", row group 7 of 10 cannot be read: ." if damage == "page" else " cannot be read as"
    with pytest.raises(InputError, match=rf"corpus file .*a\.parquet{group}") as error:
        list(read_corpus(source_of(table)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "package"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")]
)
def test_an_absent_package_is_named_with_its_extra(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(os.urandom(8))
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    says = rf"{name} needs the package '{package}', .*: pip install 'braidlm\[data\]'"
    with pytest.raises(InputError, match=says):
        list(read_corpus(source_of(tmp_path / name)))
