"""Small shares of the faults, and that neither kind of them overlooks a program that is broken."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import mutate
from tests.faults.dying import Death, install
from tests.faults.kills import in_child

ROOT = Path(__file__).parents[2]


def faults(kind: str, count: int, seed: int) -> dict:
    """Run faults in a process of their own, which forks before it has any thread."""
    command = [sys.executable, "-m", "tests.faults", kind]
    command += ["--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("count", "seed"), [(12, 0), pytest.param(28, 1, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_anywhere_ends_as_if_it_had_not_been(count, seed):
    found = faults("kills", count, seed)
    assert found["kills"] >= count
    assert found["defects"] == []


@pytest.mark.parametrize(
    ("count", "seed"), [(140, 0), pytest.param(460, 1, marks=pytest.mark.slow)]
)
def test_a_damaged_file_is_refused_or_makes_no_difference(count, seed):
    found = faults("mutations", count, seed)
    assert found["mutations"] >= count
    assert found["defects"] == []


@pytest.mark.slow
def test_kills_find_a_resumed_run_that_is_another_one(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.faults import kills\n"
        "import braidlm.train.session as session\n"
        "session.load_optimizer_state = lambda optimizer, state: None\n"
        "found = kills.run(20, Path(sys.argv[1]), ways=('write',))\n"
        "print(len(found.defects))\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0


@pytest.mark.parametrize(
    ("at", "share", "power", "left"),
    [
        (2, 0.5, False, {"a": b"", "b": b"sec"}),  # half of the second write; the first is buffered
        (2, 0.5, True, {"a": b"", "b": b""}),  # nothing was synced
        (4, 0.0, True, {"a": b"first", "b": b""}),  # dies before the move, after one sync
        (4, 1.0, True, {"c": b"first", "b": b""}),  # after it
        (5, 1.0, False, {"c": b"first"}),  # after the removal
        (0, 0.0, False, {"c": b"first"}),
    ],
)
def test_a_death_leaves_what_its_moment_says(tmp_path, at, share, power, left):
    def work() -> None:
        install(Death(tmp_path, at, share, power))
        with open(tmp_path / "a", "wb") as first, open(tmp_path / "b", "wb") as second:
            first.write(b"first")
            second.write(b"second")
            first.flush()
            os.fsync(first.fileno())
        os.replace(tmp_path / "a", tmp_path / "c")
        os.unlink(tmp_path / "b")

    status, _ = in_child(work)
    assert os.WIFSIGNALED(status) == (at > 0)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == left


@pytest.mark.parametrize("name", ["a.toml", "a.json", "a.bin"])
def test_mutations_are_the_same_twice_and_nearly_always_change_something(name):
    data = b'{"a": [1, 2, {"b": "c"}],\n "x": 3}'
    twice = [[w(data, random.Random(i)) for i in range(40) for w in mutate.of(name)] for _ in "12"]
    assert twice[0] == twice[1]
    assert sum(found != data for found in twice[0]) > 0.9 * len(twice[0])
