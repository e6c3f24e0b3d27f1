import gzip
import json
import lzma
import tracemalloc

import pytest

from braidlm.data.corpora import corpus_files, read_corpus
from braidlm.data.shard_build import build_shards
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError

from .conftest import REAL_DATA, source_of, write_jsonl


def texts(path, **fields):
    return [d.text for d in read_corpus(source_of(path, **fields))]


def zstd(data: bytes) -> bytes:
    """Two frames with one to skip between them, as parallel compressors write."""
    pack = pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress
    skipped = bytes.fromhex("502a4d18 03000000 616263")
    return pack(data[: len(data) // 2]) + skipped + pack(data[len(data) // 2 :])


PACKERS = [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstd)]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_each_kind_of_file(tmp_path, suffix, pack):
    whole = "Größe 東京\u2028 one line \x85 still\r\nnext\rx\n"
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(whole.encode()))
    record = json.dumps({"text": whole, "n": 1}, ensure_ascii=False)
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(f"{record}\r\n\n{record}".encode()))
    assert texts(tmp_path / f"a.txt{suffix}") == [whole]
    assert texts(tmp_path / f"b.jsonl{suffix}") == [whole, whole]
    found = [d.id for d in read_corpus(source_of(tmp_path))]
    assert found == [f"a.txt{suffix}", f"b.jsonl{suffix}:1", f"b.jsonl{suffix}:3"]


def test_a_folder_is_read_in_depth_and_in_order(tmp_path):
    for name in ("b/z.txt", "b/a.txt", "a.txt", "c/d/e.txt", ".hidden.txt", "b/.git/x.txt", "n.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.txt", "b/a.txt", "b/z.txt", "c/d/e.txt"]


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["train*"], ["b/train-1.jsonl", "train-0.txt"]),
        (["*.jsonl"], ["b/train-1.jsonl", "b/validation.jsonl"]),
        (["!validation.*"], ["b/train-1.jsonl", "train-0.txt"]),
        (["b/*"], ["b/train-1.jsonl", "b/validation.jsonl"]),
        (["*.txt", "b/*", "!*/val*"], ["b/train-1.jsonl", "train-0.txt"]),
    ],
)
def test_files_chooses_among_a_folders_files(tmp_path, files, taken):
    (tmp_path / "b").mkdir()
    for name in ("b/train-1.jsonl", "b/validation.jsonl", "train-0.txt"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    source = source_of(tmp_path, files=tuple(files))
    assert [f.relative_to(tmp_path).as_posix() for f in corpus_files(source)] == taken
    shards = build_shards(source, ByteTokenizer(), tmp_path / "s")
    assert shards.meta["source"]["files"] == taken
    other = build_shards(source_of(tmp_path), ByteTokenizer(), tmp_path / "s")
    assert (other.folder == shards.folder) == (len(taken) == 3)


def test_files_that_leave_nothing_or_choose_from_one_file_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"files = \['b\*'\]: none of the 1 files of corpus fold"):
        texts(tmp_path, files=("b*",))
    with pytest.raises(InputError, match=r"files = \['a\*'\]: corpus .*a\.txt is a file, not a"):
        texts(tmp_path / "a.txt", files=("a*",))


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_a_txt_file_is_parted_as_the_source_says(tmp_path, suffix, pack):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack("\ufeffone\r\ntwo \n \n\n\n three\n\x85\u2028four\n\nfive".encode()))
    assert texts(path, documents="line") == ["one", "two ", " three", "\x85\u2028four", "five"]
    found = list(read_corpus(source_of(path, documents="blank-line")))
    assert [d.text for d in found] == ["one\r\ntwo ", " three\n\x85\u2028four", "five"]
    assert [d.id for d in found] == [f"a.txt{suffix}:{n}" for n in (1, 6, 9)]
    assert len(texts(path)) == 1


def test_parting_names_the_line_that_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\xff\n")
    for documents in ("line", "blank-line"):
        with pytest.raises(InputError, match=r"a\.txt, line 3: byte 0xff is not UTF-8"):
            texts(tmp_path / "a.txt", documents=documents)


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "y"}\n')
    assert texts(tmp_path) == ["x", "y"]


def test_another_text_field(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["p", "q"], field="body")
    assert texts(path, field="body") == ["p", "q"]
    with pytest.raises(InputError, match=r'a\.jsonl, line 1 has no field "text" \(fields: body\)'):
        texts(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', r"line 2 is not JSON"),
        (b'["text"]', r"line 2 must be a JSON object"),
        (b'{"text": 5}', r'line 2: field "text" must be text, not int'),
        (b'{"text": "\xff"}', r"line 2: byte 0xff is not UTF-8"),
        (b"[" * 100_000, r"line 2 is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"a\.jsonl, " + message):
        texts(path)


@pytest.mark.parametrize(("suffix", "pack"), PACKERS[1:])
@pytest.mark.parametrize("damage", ["cut", "not packed", "altered", "empty"])
def test_a_damaged_archive_is_named(tmp_path, suffix, pack, damage):
    lines = b"".join(json.dumps({"text": f"{i} " * 50}).encode() + b"\n" for i in range(2000))
    data = bytearray(pack(lines))
    if damage == "cut":
        data = data[: len(data) * 3 // 4]
    elif damage == "altered":
        data[len(data) * 3 // 4] ^= 0xFF
    else:
        data = bytearray(b"plain" if damage == "not packed" else b"")
    for kind in ("jsonl", "txt"):
        path = tmp_path / f"a.{kind}{suffix}"
        path.write_bytes(data)
        if damage == "empty" and suffix == ".gz":
            assert "".join(texts(path)) == ""  # gzip takes no bytes for no members
            continue
        line = ", line [0-9]+" if kind == "jsonl" else ""
        # A decompressor may give altered text before it meets the checksum.
        what = ".+" if damage == "altered" else "cannot be read: .+"
        with pytest.raises(InputError, match=rf"a\.{kind}{suffix}{line}.* {what}"):
            texts(path)


def test_packed_text_is_unpacked_piece_by_piece(tmp_path):
    """64 MiB of lines in 8 KiB of zstd are never in memory as a whole."""
    line = b"x" * 1023 + b"\n"
    pack = pytest.importorskip("zstandard").ZstdCompressor().compressobj()
    with (tmp_path / "a.txt.zst").open("wb") as file:
        for _ in range(64):
            file.write(pack.compress(line * 1024))
        file.write(pack.flush())
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_corpus(source_of(tmp_path, documents="line"))) == 1 << 16
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_text_that_is_not_utf8_names_the_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nth\xe9ee\n")
    with pytest.raises(InputError, match=r"a\.txt, line 3: byte 0xe9 is not UTF-8"):
        texts(tmp_path / "a.txt")


def test_missing_paths_and_kinds(tmp_path):
    with pytest.raises(InputError, match="nothing does not exist"):
        texts(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"holds no file that ends in \.txt"):
        texts(tmp_path)
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(InputError, match=r"a\.csv must end in one of \.txt"):
        corpus_files(source_of(tmp_path / "a.csv"))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real corpora are not here")
def test_real_files():
    found = list(read_corpus(source_of(REAL_DATA / "lm/enwiki_2018/validation.jsonl.xz")))
    assert len(found) == 260
    assert found[0].text.startswith("Ko Hye-in (born 18 July 1994)")
    [wikitext] = read_corpus(source_of(REAL_DATA / "lm/wikitext2/wiki.test.raw.txt.xz"))
    assert len(wikitext.text.encode()) == 1_290_590
    assert wikitext.text.count("\n") == 4358
