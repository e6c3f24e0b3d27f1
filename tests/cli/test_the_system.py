"""What the machine does to a command: full disks, closed folders, gone readers, signals, rivals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, contents, process, write_recipe

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 KiB, room for a recipe but for no checkpoint."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, check=False) if IS_ROOT else None
    if done is None or done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(place: Path) -> None:
    with open(place / "filler", "wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096) == 4096:
                pass
        except OSError:
            return


def test_a_full_disk_stops_training_and_says_where(refused, small_disk, trained):
    words = ("train", trained / "recipe.toml", "--out", small_disk / "run", "--progress", "none")
    refused(*words, says=("step-00000002", "No space left on device"))
    left = [p.name for p in (small_disk / "run" / "checkpoints").iterdir()]
    assert left == []


def test_a_full_disk_keeps_the_earlier_checkpoint(braid, refused, small_disk, recipe):
    """The disk fills between two sessions: the second changes nothing that the first had saved."""
    out = ("--out", small_disk / "run", "--no-eval", "--progress", "none")
    little = ["model.d_model=8", "model.mixers.M.head_dim=8", "model.mixers.*.head_dim=8"]
    little += ["model.mixers.M.d_state=8", "model.mixers.-.d_ff=8", "train.steps=2"]
    sets = [word for text in little for word in ("--set", text)]
    assert braid("train", recipe, *out, *sets).code == 0
    before = contents(small_disk / "run" / "checkpoints")
    _fill(small_disk)
    words = ("train", recipe, *out, "--resume", *sets, "--set", "train.steps=4")
    refused(*words, says="No space left on device")
    assert contents(small_disk / "run" / "checkpoints") == before
    (small_disk / "filler").unlink()
    assert braid(*words).code == 0


def test_a_full_disk_leaves_no_half_shards(refused, small_disk, recipe):
    _fill(small_disk)
    words = ("data", "build", recipe, "--out", small_disk / "cache")
    refused(*words, says="No space left on device")
    assert not (small_disk / "cache").exists() or not list((small_disk / "cache").iterdir())


def test_a_full_disk_keeps_the_earlier_report(refused, small_disk, trained):
    (small_disk / "r.html").write_text("earlier")
    _fill(small_disk)
    words = ("report", trained / "run", "-o", small_disk / "r.html")
    refused(*words, says=("r.html", "No space left on device"))
    assert (small_disk / "r.html").read_text() == "earlier"
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "r.html"]


def test_output_that_cannot_be_written(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        found = process("describe", "M", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert found.returncode == 2
    assert found.stderr == "braid: No space left on device\n"


def _without_privileges() -> list[str]:
    """Words before a command that make root obey a folder's permissions as its owner does."""
    if not IS_ROOT:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("giving up root's privileges needs setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.fixture
def closed(trained, tmp_path):
    """A copy of the trained folder in which nothing can be written."""
    place = tmp_path / "closed"
    shutil.copytree(trained, place)
    folders = [place, *(f for f in place.rglob("*") if f.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield place
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("train {closed}/recipe.toml --out {closed}/new", "{closed}/new"),
        ("report {closed}/run -o {closed}/r.html", "{closed}/r.html"),
        ("data build {closed}/recipe.toml --out {closed}/new", "{closed}/new"),
        (
            "eval {closed}/run --tasks mqar --force",
            "{closed}/run/results/.mqar-recall.partial.jsonl",
        ),
    ],
    ids=["train", "report", "data", "eval"],
)
def test_a_closed_folder_is_named(closed, words, names):
    before = contents(closed)
    command = [sys.executable, "-m", "braidlm", *words.format(closed=closed).split()]
    command = [*_without_privileges(), *command]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    said = f"braid: {names.format(closed=closed)}: Permission denied\n"
    assert (found.returncode, found.stderr) == (2, said)
    assert contents(closed) == before


@pytest.mark.parametrize("command", ["describe --schema", "describe M --each", "--help"])
def test_a_reader_that_goes_away_ends_the_command_quietly(command):
    shell = f"set -o pipefail; {sys.executable} -m braidlm {command} | head -c 1"
    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stderr, len(found.stdout)) == (0, "", 1)


def test_a_reader_that_was_never_there():
    reading, writing = os.pipe()
    os.close(reading)
    found = process("describe", "M", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.slow
def test_a_terminal_of_few_characters(trained):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    found = process("eval", trained / "run", "--tasks", "mqar", "--limit", "2", env=env)
    assert (found.returncode, found.stderr) == (0, "")
    assert "accuracy" in found.stdout


@pytest.fixture
def training(tmp_path):
    """A training that goes on for long, and has made its first checkpoint."""
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    words = ["train", recipe, "--out", run, "--no-eval", "--progress", "none"]
    sets = ["train.steps=100000", "train.threads=1"]
    words += [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-m", "braidlm", *map(str, words)]
    child = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT)
    until = time.monotonic() + 60
    while not list(run.glob("checkpoints/step-*")) and time.monotonic() < until:
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    yield child, words, run
    child.kill()
    child.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_training_saves_and_says_how_to_go_on(braid, training, number):
    child, words, run = training
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    status = json.loads((run / "status.json").read_text())
    assert err == f"braid: stopped at step {status['step']}; continue with --resume\n"
    assert status["state"] == "interrupted"
    assert (run / "checkpoints" / f"step-{status['step']:08d}" / "manifest.json").is_file()
    more = f"train.steps={status['step'] + 2}"
    assert braid(*words, "--resume", "--set", more).code == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert json.loads((run / "status.json").read_text())["state"] == "done"


def test_the_second_process_of_one_run_is_refused(refused, training):
    child, words, run = training
    refused(*words, "--resume", says=(str(run), "another process is training it"))
    refused(*words, says=(str(run), "is not empty"))
    assert child.poll() is None
