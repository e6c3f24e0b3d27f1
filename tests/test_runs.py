"""A run directory keeps what was written, whatever happens to the process or the disk."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from braidlm import files, provenance, runs
from braidlm.errors import InputError
from braidlm.runs import Run

CONFIG = {"name": "tiny", "seed": 3, "train": {"steps": 8}}
PAYLOAD = {
    "metric": "accuracy",
    "metrics": {"accuracy": {"value": 0.5, "stderr": 0.1, "n": 25, "unit": "fraction"}},
    "step": 8,
    "checkpoint": "checkpoints/step-00000008",
    "device": "cpu",
    "dtype": "float32",
    "ops": {"ssd": "chunk"},
    "wall_sec": 1.5,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG)


def test_import_needs_no_torch():
    code = "import sys, braidlm.runs; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_create_then_open_gives_the_config_back(run: Run):
    assert Run.open(run.path).config == CONFIG
    assert (run.path / "checkpoints").is_dir()
    assert (run.path / "results").is_dir()


def test_create_takes_an_empty_folder_and_refuses_a_used_one(tmp_path: Path, run: Run):
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", CONFIG)
    with pytest.raises(InputError, match=r"is not empty.*resume the run"):
        Run.create(run.path, CONFIG)
    assert Run.create(run.path, CONFIG | {"seed": 4}, resume=True).config["seed"] == 4


def test_resume_never_takes_over_a_folder_that_is_no_run(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run to resume"):
        Run.create(tmp_path, CONFIG, resume=True)
    with pytest.raises(InputError, match="is a file"):
        Run.create(tmp_path / "thesis.txt", CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_open_names_what_is_missing(tmp_path: Path, run: Run):
    with pytest.raises(InputError, match="nowhere is not a run directory: no such folder"):
        Run.open(tmp_path / "nowhere")
    (run.path / "config.json").write_text('{"name": ')
    with pytest.raises(InputError, match=r"config\.json is not readable as JSON"):
        _ = run.config
    (run.path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        Run.open(run.path)


def test_metrics_come_back_in_order_and_nan_is_null(run: Run):
    run.append_metrics({"step": 1, "loss": 2.5})
    run.append_metrics({"step": 2, "loss": float("nan"), "sources": {"a": float("inf")}})
    assert run.metrics() == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": None, "sources": {"a": None}},
    ]


def test_torn_last_line_is_dropped_by_readers_and_by_the_next_writer(run: Run):
    run.append_metrics({"step": 1})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1}]
    again = Run.open(run.path)
    again.append_metrics({"step": 2})
    assert again.metrics() == [{"step": 1}, {"step": 2}]


def test_a_line_of_zeros_at_the_end_is_dropped_and_in_the_middle_is_an_error(run: Run):
    path = run.path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\0\n')
    assert run.metrics() == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n\0\0\0\0\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2: not a JSON object"):
        run.metrics()


def test_truncation_leaves_no_row_after_the_step(run: Run):
    for step in (1, 2, 3, 4):
        run.append_metrics({"step": step})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5')
    run.truncate_metrics(2)
    run.append_metrics({"step": 3, "again": True})
    assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_full_disk_during_an_append_leaves_the_earlier_lines(run: Run, monkeypatch):
    run.append_metrics({"step": 1})
    write = os.write
    with monkeypatch.context() as patch:
        # The disk takes half of the line and no more, as a real one does.
        patch.setattr(runs.os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        with pytest.raises(OSError, match="No space left") as caught:
            run.append_metrics({"step": 2, "loss": 1.25})
    assert caught.value.errno == errno.ENOSPC
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    run.append_metrics({"step": 2})
    assert [row["step"] for row in run.metrics()] == [1, 2]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_replacement_leaves_the_old_file_and_no_temporary(run: Run, monkeypatch, function):
    run.set_status("running", 1, 8)
    before = (run.path / "status.json").read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        run.set_status("done", 8, 8)
    assert (run.path / "status.json").read_bytes() == before
    assert not list(run.path.glob(".*.tmp"))


@contextlib.contextmanager
def tiny_disk(folder: Path, size_bytes: int):
    """Mount a memory disk of the given size, or skip where the system does not permit it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tmp_path: Path):
    with tiny_disk(tmp_path / "disk", 64 * 1024) as disk:
        run = Run.create(disk / "run", CONFIG)
        step = 0
        with contextlib.suppress(OSError):
            while step < 10_000:
                run.append_metrics({"step": step, "text": "x" * 100})
                step += 1
        assert 0 < step < 10_000
        rows = run.metrics()
        assert [row["step"] for row in rows] == list(range(step))
        with pytest.raises(OSError, match="No space left"):
            run.write_env({"text": "x" * 100_000})
        assert run.env == {}
        assert run.config == CONFIG
        assert not list(run.path.glob(".*.tmp"))


def test_a_read_only_folder_is_an_os_error(tmp_path: Path):
    with tiny_disk(tmp_path / "disk", 64 * 1024) as disk:
        run = Run.create(disk / "run", CONFIG)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            run.set_status("running", 0, 8)
        with pytest.raises(OSError, match="Read-only"):
            run.append_metrics({"step": 1})
        with pytest.raises(OSError, match="Read-only"):
            Run.create(disk / "other", CONFIG)
        assert run.config == CONFIG


def test_status_of_a_run_whose_process_is_gone(run: Run):
    assert run.status()["state"] == "interrupted"
    run.set_status("running", 3, 8)
    assert run.status()["state"] == "interrupted"
    assert run.status()["step"] == 3
    with run.lock():
        assert run.status()["state"] == "running"
        with pytest.raises(InputError, match="another process is training it"), run.lock():
            pass
    run.set_status("failed", 4, 8, "ValueError: no")
    assert run.status()["error"] == "ValueError: no"
    with pytest.raises(ValueError, match="state = 'ok'"):
        run.set_status("ok", 1, 8)


def test_a_glance_at_the_status_does_not_stop_a_start(run: Run):
    with open(run.path / ".lock", "ab") as glance:
        assert runs._try_lock(glance)
        threading.Timer(0.1, glance.close).start()
        with run.lock():
            assert glance.closed


def test_the_lock_goes_with_a_killed_process(run: Run):
    code = (
        "import sys, os\nfrom braidlm.runs import Run\nrun = Run.open(sys.argv[1])\n"
        "with run.lock():\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert run.is_active()
        child.kill()
        child.wait()
    assert not run.is_active()


def test_a_result_is_complete_by_itself(run: Run):
    path = run.write_result("mqar", "short", PAYLOAD)
    assert path.name == "mqar-short.json"
    result = json.loads(path.read_text())
    assert set(result) == set(runs.RESULT_FIELDS)
    assert (result["value"], result["stderr"], result["n"]) == (0.5, 0.1, 25)
    assert result["config"] == CONFIG
    assert result["seed"] == 3
    assert result["schema_version"] == 1
    assert result["packages"]["torch"] == provenance.package_versions()["torch"]
    assert result["code_version"] == provenance.code_version()


@pytest.mark.parametrize("field", ["metric", "device", "ops", "checkpoint"])
def test_a_result_that_lacks_a_field_is_refused(run: Run, field: str):
    payload = {key: value for key, value in PAYLOAD.items() if key != field}
    with pytest.raises(ValueError, match=f"mqar-short lacks .*{field}"):
        run.write_result("mqar", "short", payload)
    assert run.results() == []


def test_results_are_read_by_kind_and_schema(run: Run):
    run.write_result("mqar", "b", PAYLOAD)
    run.write_result("lm", "a", PAYLOAD | {"value": 2.0, "seed": 9})
    assert [r["name"] for r in run.results()] == ["a", "b"]
    (lm,) = run.results("lm")
    assert (lm["value"], lm["seed"]) == (2.0, 9)
    with pytest.raises(InputError, match=r"name = .*/x"):
        run.write_result("lm", "../x", PAYLOAD)
    files.write_json(run.results_dir / "lm-c.json", {"schema_version": 2})
    with pytest.raises(InputError, match="schema_version = 2; this version reads 1"):
        run.results()
    files.write_json(run.results_dir / "lm-c.json", {"schema_version": 1})
    with pytest.raises(InputError, match=r"lm-c\.json lacks its 'kind'"):
        run.results()


def test_env_says_what_a_result_depends_on_and_keeps_earlier_sessions(run: Run):
    first = runs.capture_env(threads=1, device="cpu", precision="fp32")
    assert first["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert first["packages"].keys() >= {"torch", "numpy", "pydantic"}
    run.write_env(first)
    run.write_env(first | {"threads": 2})
    run.write_env(first | {"threads": 4})
    assert run.env["threads"] == 4
    assert [session["threads"] for session in run.env["earlier"]] == [1, 2]
    assert "earlier" not in run.env["earlier"][1]


def test_commit_of_a_foreign_repository_is_not_ours(tmp_path: Path, monkeypatch):
    package = tmp_path / "lib" / "braidlm"
    package.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.git_commit.__wrapped__() is None


@pytest.mark.parametrize("program", ["/somewhere/bin/braid", "/somewhere/braidlm/__main__.py"])
def test_the_recorded_command_runs_on_any_machine(program, monkeypatch):
    monkeypatch.setattr("sys.argv", [program, "train", "a b.toml"])
    assert runs.capture_env()["command"] == "braid train 'a b.toml'"
