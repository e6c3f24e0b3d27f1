import errno
import os
import subprocess
import sys

import pytest

from braidlm.files import atomic_write, is_unaltered, read_json, sealed, write_json


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path, gone):
    kept = [
        f".a.json.{os.getppid()}.tmp",  # its process lives
        f".b.json.{gone}.tmp",  # of another file
        f".a.json.{gone}.old",
        ".a.json.mine.tmp",
        f".a.json.{10**30}.tmp",
    ]
    for name in (*kept, f".a.json.{gone}.tmp"):
        (tmp_path / name).write_text("half")
    atomic_write(tmp_path / "a.json", b"whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "a.json"])
    assert (tmp_path / "a.json").read_bytes() == b"whole"


def test_a_write_that_fails_leaves_the_earlier_file_alone(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"earlier")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full") as told:
        atomic_write(tmp_path / "a", b"new")
    assert told.value.filename == str(tmp_path / "a")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"earlier")]


def test_half_a_character_comes_back_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"name": "\udcff é"})
    assert read_json(tmp_path / "a.json") == {"name": "\udcff é"}


def test_what_is_sealed_tells_every_change():
    whole = sealed({"a": {"b": [1, 2.5]}, "c": None})
    assert is_unaltered(whole)
    assert is_unaltered(dict(reversed(whole.items())))
    assert sealed(whole) == whole
    for changed in (whole | {"a": {"b": [1, 2]}}, whole | {"d": 1}, whole | {"sha256": "0"}):
        assert not is_unaltered(changed)
