import json
import os

import pytest

from braidlm.data import shards as module
from braidlm.data.shard_build import build_shards
from braidlm.data.shards import open_shards
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.data.verified import NAME
from braidlm.errors import InputError
from braidlm.files import sealed

from .conftest import source_of


@pytest.fixture
def folder(corpus, tmp_path):
    """Shards that were written an hour ago."""
    found = build_shards(source_of(corpus), ByteTokenizer(), tmp_path / "s", held_out=0.3).folder
    for file in found.iterdir():
        then = file.stat().st_mtime_ns - 3600 * 10**9
        os.utime(file, ns=(then, then))
    return found


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were read to compare their checksums."""
    names = []
    real = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda p: names.append(p.name) or real(p))
    return names


def test_what_was_found_whole_is_not_read_again(folder, read):
    open_shards(folder, verify=True)
    assert len(read) == 8
    open_shards(folder, verify=True)
    open_shards(folder).verify("held_out")
    assert len(read) == 8
    open_shards(folder, verify="all")
    assert len(read) == 16


@pytest.mark.parametrize("how", ["written", "replaced", "its times restored"])
def test_what_was_touched_is_read_again(folder, read, how):
    open_shards(folder, verify=True)
    file = folder / "train-00000.bin"
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-3] ^= 1
    if how == "replaced":
        file.unlink()
    file.write_bytes(data)
    if how == "its times restored":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=r"train-00000\.bin was altered"):
        open_shards(folder, verify=True)
    assert read[8:] == ["train-00000.bin"]


def test_a_file_that_was_just_written_is_not_recorded(folder, read):
    os.utime(folder / "train-00000.idx")
    open_shards(folder, verify=True)
    assert "train-00000.idx" not in json.loads((folder / NAME).read_text())
    open_shards(folder, verify=True)
    assert read[8:] == ["train-00000.idx"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"train-00000.bin": 5}', b"[" * 100_000]
)
def test_a_damaged_record_is_no_record(folder, read, content):
    (folder / NAME).write_bytes(content)
    open_shards(folder, verify=True)
    assert len(read) == 8


def test_another_checksum_in_meta_is_compared(folder, read):
    open_shards(folder, verify=True)
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"]["train-00000.bin"]["sha256"] = "0" * 64
    (folder / "meta.json").write_text(json.dumps(sealed(meta)))
    with pytest.raises(InputError, match=r"train-00000\.bin was altered"):
        open_shards(folder, verify=True)


def test_a_folder_that_cannot_be_written_is_checked_all_the_same(folder, read, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("braidlm.data.verified.write_json", refuse)
    open_shards(folder, verify=True)
    open_shards(folder, verify=True)
    assert len(read) == 16
