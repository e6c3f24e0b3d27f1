import subprocess
import sys

import pytest

from braidlm.data.building import building

HOLD = """
import sys
from pathlib import Path
from braidlm.data.building import building
with building(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def builder(tmp_path):
    """Another process in the midst of building `tmp_path / "a"`, and its folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_whole(tmp_path):
    with building(tmp_path / "s" / "a") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "s" / "a").exists()
    assert names(tmp_path / "s") == ["a"]
    assert (tmp_path / "s" / "a" / "x").read_text() == "1"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), building(tmp_path / "a") as folder:  # noqa: PT012
        (folder / "x").write_text("1")
        raise RuntimeError
    assert names(tmp_path) == []


def test_what_a_living_builder_writes_is_left_alone(tmp_path, builder):
    _, other = builder
    with building(tmp_path / "b"):
        pass
    assert names(tmp_path / other) == ["half"]
    assert "b" in names(tmp_path)


def test_what_a_killed_builder_left_is_removed_by_the_next(tmp_path, builder):
    process, other = builder
    process.kill()
    process.wait()
    assert names(tmp_path / other) == ["half"]
    (tmp_path / ".building-c-17").mkdir()  # without a lock: none that lives made it
    with building(tmp_path / "b"):
        pass
    assert names(tmp_path) == ["b"]
