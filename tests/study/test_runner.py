"""Side by side, failing, interrupted, killed: what the runner makes of its processes."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from braidlm.errors import InputError
from braidlm.report.load import load
from braidlm.runs import Run
from braidlm.study import machine, run_study, study
from tests.study.making import book, ended, is_alive, launch, states, wait_until, write_study

SLEEP = {"sleep": [], "good": []}


@pytest.mark.usefixtures("fake_runs")
def test_a_failing_arm_is_recorded_and_the_others_go_on(tmp_path: Path):
    arms = {"good": [], "raise": [], "die": [], "also": []}
    summary = run_study(write_study(tmp_path, arms), tmp_path / "out", is_silent=True)

    assert summary.states == {
        "good/seed-0": "done",
        "raise/seed-0": "failed",
        "die/seed-0": "failed",
        "also/seed-0": "done",
    }
    assert not summary.is_complete
    assert summary.errors == {
        "raise/seed-0": "RuntimeError: out of luck",
        "die/seed-0": "its process was ended by SIGKILL, by hand or for want of memory",
    }
    rows = book(tmp_path / "out")["runs"]
    assert {run: row["error"] for run, row in rows.items() if row["error"]} == summary.errors
    assert {row["pid"] for row in rows.values()} == {None}
    assert "out of luck" in Path(rows["raise/seed-0"]["log"]).read_text()


@pytest.mark.usefixtures("fake_runs")
def test_an_error_of_an_earlier_session_is_not_told_again(tmp_path: Path):
    study_file, out = write_study(tmp_path, {"die": []}), tmp_path / "out"
    (out / "die").mkdir(parents=True)
    (out / "die" / "seed-0.log").write_text("RuntimeError: long ago\n")
    (out / "study.json").write_text('{"schema_version": 1, "name": "study"}')

    summary = run_study(study_file, out, resume=True, is_silent=True)

    assert "SIGKILL" in summary.errors["die/seed-0"]


@pytest.mark.usefixtures("fake_runs")
def test_threads_gpus_and_jobs_are_shared_out_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "count_cores", lambda: 12)
    monkeypatch.setattr(machine, "visible_gpus", lambda: ("3", "5"))
    recipe = 'device = "auto"'
    study_file = write_study(tmp_path, {"a": [], "b": ["train.threads=7"]}, seeds=[0, 1], jobs=0)
    text = (tmp_path / "recipe.toml").read_text().replace('device = "cpu"', recipe)
    (tmp_path / "recipe.toml").write_text(text)

    run_study(study_file, tmp_path / "out", is_silent=True)

    found = book(tmp_path / "out")
    assert (found["threads"], found["sessions"][0]["jobs"]) == (6, 2)
    assert found["sessions"][0]["gpus"] == ["3", "5"]
    calls = {p.parts[-3]: p.read_text() for p in tmp_path.glob("out/*/seed-0/calls.txt")}
    assert "train.threads=6" in calls["a"]
    assert "train.threads=7" in calls["b"]
    assert "train.threads=6" not in calls["b"]
    assert {calls["a"].split()[0], calls["b"].split()[0]} == {"3", "5"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_every_run_save_and_resume_ends_them(tmp_path: Path, number: signal.Signals):
    study_file, out = write_study(tmp_path, SLEEP), tmp_path / "out"
    runner = launch(study_file, out, "--jobs", "1")
    status = out / "sleep" / "seed-0" / "status.json"
    wait_until(lambda: status.exists() and '"step": 3' in status.read_text())
    runner.send_signal(number)
    code, _, errors = ended(runner)

    assert code == 130, errors
    assert "--resume" in errors.splitlines()[-1]
    assert states(out) == {"sleep/seed-0": "interrupted", "good/seed-0": "waiting"}
    assert '"interrupted"' in status.read_text()

    if number is signal.SIGINT:
        assert ended(launch(study_file, out, "--resume"))[0] == 0
        assert set(states(out).values()) == {"done"}
        calls = (out / "sleep" / "seed-0" / "calls.txt").read_text().splitlines()
        assert [call.endswith("--resume") for call in calls] == [False, True]


def test_a_second_signal_kills_what_does_not_listen(tmp_path: Path):
    study_file, out = write_study(tmp_path, {"deaf": []}), tmp_path / "out"
    runner = launch(study_file, out)
    status = out / "deaf" / "seed-0" / "status.json"
    wait_until(lambda: status.exists() and '"step": 3' in status.read_text())
    pid = book(out)["runs"]["deaf/seed-0"]["pid"]
    runner.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert is_alive(pid)
    assert runner.poll() is None
    runner.send_signal(signal.SIGINT)

    assert ended(runner)[0] == 130
    assert not is_alive(pid)
    assert states(out) == {"deaf/seed-0": "interrupted"}


def test_runs_do_not_outlive_a_killed_runner_and_resume_ends_them(tmp_path: Path):
    study_file, out = write_study(tmp_path, SLEEP), tmp_path / "out"
    runner = launch(study_file, out)
    status = out / "sleep" / "seed-0" / "status.json"
    wait_until(lambda: status.exists() and '"step": 3' in status.read_text())
    pid = book(out)["runs"]["sleep/seed-0"]["pid"]
    runner.kill()
    runner.communicate()

    assert ended(launch(study_file, out, "--resume"))[0] == 0
    assert not is_alive(pid)
    assert set(states(out).values()) == {"done"}


def test_resume_names_the_process_that_still_holds_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study_file, out = write_study(tmp_path, {"mute": []}), tmp_path / "out"
    runner = launch(study_file, out)
    status = out / "mute" / "seed-0" / "status.json"
    wait_until(lambda: status.exists() and '"step": 3' in status.read_text())
    pid = book(out)["runs"]["mute/seed-0"]["pid"]
    runner.kill()
    runner.communicate()
    monkeypatch.setattr(study, "ORPHAN_SEC", 0.3)
    try:
        with pytest.raises(InputError, match=rf"process {pid} of an earlier session .*kill {pid}"):
            run_study(study_file, out, resume=True, is_silent=True)
        assert book(out)["runs"]["mute/seed-0"]["pid"] == pid
    finally:
        os.kill(pid, signal.SIGKILL)


def test_two_runners_of_one_study_are_one_too_many(tmp_path: Path):
    study_file, out = write_study(tmp_path, {"sleep": []}), tmp_path / "out"
    runner = launch(study_file, out)
    wait_until(lambda: (out / "sleep" / "seed-0" / "status.json").exists())
    with pytest.raises(InputError, match=rf"process {runner.pid} is running this study"):
        run_study(study_file, out, resume=True, is_silent=True)
    runner.terminate()
    assert ended(runner)[0] == 130


def test_a_study_that_has_only_just_begun_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study_file, out = write_study(tmp_path, {"sleep": []}), tmp_path / "out"
    out.mkdir()
    with Run(out).lock(), pytest.raises(InputError, match="another process is running this study"):
        run_study(study_file, out, is_silent=True)
    assert [entry.name for entry in out.iterdir()] == [".lock"]

    def meanwhile(jobs, *rest):
        (out / "study.json").write_text(json.dumps({"schema_version": 1, "sessions": []}))
        return fill(jobs, *rest)

    fill = study.fill_commands
    monkeypatch.setattr(study, "fill_commands", meanwhile)
    with pytest.raises(InputError, match="has run this study just now"):
        run_study(study_file, out, resume=True, is_silent=True)
    assert json.loads((out / "study.json").read_text())["sessions"] == []


@pytest.mark.usefixtures("fake_runs")
def test_a_study_that_cannot_write_stops_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study_file, out = write_study(tmp_path, SLEEP), tmp_path / "out"
    real_write, calls = study.books.Book.write, []

    def write(self: study.books.Book) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        real_write(self)

    monkeypatch.setattr(study.books.Book, "write", write)
    with pytest.raises(OSError, match="No space left"):
        run_study(study_file, out, is_silent=True)
    assert not any(is_alive(row["pid"]) for row in book(out)["runs"].values() if row["pid"])


@pytest.mark.usefixtures("fake_runs")
def test_the_report_lists_a_run_that_never_made_its_folder(tmp_path: Path):
    study_file, out = write_study(tmp_path, {"a": [], "b": []}), tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "b" / "seed-0").write_text("in the way")
    (out / "study.json").write_text('{"schema_version": 1, "name": "study"}')

    summary = run_study(study_file, out, resume=True, is_silent=True)

    assert summary.states == {"a/seed-0": "done", "b/seed-0": "failed"}
    (missing,) = load([_without_results(out)]).missing
    assert (missing.arm, missing.state) == ("b", "failed")
    assert "seed-0 is a file" in missing.error


def _without_results(out: Path) -> Path:
    for path in out.glob("*/*/results/*.json"):  # a fake run's results are not complete
        path.unlink()
    return out
