import gzip
import json
import lzma

import pytest

from braidlm.data.corpora import corpus_files, read_corpus
from braidlm.errors import InputError

from .conftest import REAL_DATA, write_jsonl


def texts(path, **options):
    return [d.text for d in read_corpus(path, **options)]


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_each_kind_of_file(tmp_path, suffix, pack):
    text = "Größe 東京\u2028 one line \x85 still\r\nnext\rx\n"
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(text.encode()))
    record = json.dumps({"text": text, "n": 1}, ensure_ascii=False)
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(f"{record}\r\n\n{record}".encode()))
    assert texts(tmp_path / f"a.txt{suffix}") == [text]
    assert texts(tmp_path / f"b.jsonl{suffix}") == [text, text]
    found = [d.id for d in read_corpus(tmp_path)]
    assert found == [f"a.txt{suffix}", f"b.jsonl{suffix}:1", f"b.jsonl{suffix}:3"]


def test_a_folder_is_read_in_depth_and_in_order(tmp_path):
    for name in ("b/z.txt", "b/a.txt", "a.txt", "c/d/e.txt", ".hidden.txt", "b/.git/x.txt", "n.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.txt", "b/a.txt", "b/z.txt", "c/d/e.txt"]


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "y"}\n')
    assert texts(tmp_path) == ["x", "y"]


def test_another_text_field(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["p", "q"], field="body")
    assert texts(path, text_field="body") == ["p", "q"]
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


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("damage", ["cut", "not packed", "altered", "empty"])
def test_a_damaged_archive_is_named(tmp_path, suffix, pack, damage):
    lines = b"".join(json.dumps({"text": f"{i} " * 50}).encode() + b"\n" for i in range(2000))
    data = bytearray(pack(lines))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "altered":
        data[len(data) // 2] ^= 0xFF
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
        corpus_files(tmp_path / "a.csv")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real corpora are not here")
def test_real_files():
    found = list(read_corpus(REAL_DATA / "lm/enwiki_2018/validation.jsonl.xz"))
    assert len(found) == 260
    assert found[0].text.startswith("Ko Hye-in (born 18 July 1994)")
    [wikitext] = read_corpus(REAL_DATA / "lm/wikitext2/wiki.test.raw.txt.xz")
    assert len(wikitext.text.encode()) == 1_290_590
    assert wikitext.text.count("\n") == 4358
