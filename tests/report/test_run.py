"""What is read of one run, damaged files included."""

import json

from braidlm.report.load import load

from .making import config, lm, losses, write, write_run


def test_damaged_files_become_notes(tmp_path):
    run = write_run(tmp_path / "run", results=[lm(1.5)])
    (run / "results" / "mqar-recall.json").write_text('{"schema_version": 1,')
    (run / "status.json").write_text("[]")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "lo')
    (found,) = load([run]).arms
    notes = " ".join(found.runs[0].notes)
    assert "mqar-recall.json cannot be read" in notes
    assert "status.json holds a list" in notes
    assert "metrics.jsonl has 1 unreadable line" in notes
    assert list(found.runs[0].results) == ["lm-held-out"]
    assert len(found.runs[0].metrics) == 100


def test_what_no_reader_expects_becomes_a_note_too(tmp_path):
    bad = lm(1.5, name="odd") | {"ops": 0.5}
    run = write_run(tmp_path / "run", results=[lm(1.5), bad])
    with (run / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    (found,) = load([run]).arms
    assert "'ops' must be an object" in found.runs[0].notes[1]
    assert "metrics.jsonl has 1 unreadable line" in found.runs[0].notes[0]


def test_a_running_run_whose_process_is_gone_is_interrupted(tmp_path):
    run = write_run(tmp_path / "run", state="running")
    (found,) = load([run]).arms
    assert found.runs[0].status["state"] == "interrupted"


def test_reading_needs_nothing_but_the_config(tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "config.json", config(seed=7))
    (found,) = load([tmp_path / "run"]).arms
    assert (found.runs[0].seed, found.runs[0].metrics, found.runs[0].results) == (7, [], {})


def test_metrics_are_read_line_by_line(tmp_path):
    rows = losses(3, 2.0)
    run = write_run(tmp_path / "run", metrics=rows)
    assert load([run]).arms[0].runs[0].metrics == json.loads(json.dumps(rows))
