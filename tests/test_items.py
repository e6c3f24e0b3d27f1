"""What a result says of each item: whole, checked, and never mixed up with another result."""

import json
import math

import pytest

from braidlm.errors import InputError
from braidlm.items import read_items, write_items
from braidlm.runs import Run

ROWS = [{"id": "4/0", "accuracy": 0.25}, {"id": "naïve", "accuracy": math.nan}]


def test_rows_come_back_and_are_strict_json(tmp_path):
    about = write_items(tmp_path / "a-b.items.jsonl", ROWS)
    assert (about["file"], about["n"]) == ("a-b.items.jsonl", 2)
    found = read_items(tmp_path, {"kind": "a", "name": "b", "items": about})
    assert found == [ROWS[0], {"id": "naïve", "accuracy": None}]
    assert (tmp_path / "a-b.items.jsonl").read_text().count("\n") == 2


def test_a_file_that_is_not_the_results_is_refused(tmp_path):
    about = write_items(tmp_path / "a-b.items.jsonl", ROWS)
    result = {"kind": "a", "name": "b", "items": about}
    write_items(tmp_path / "a-b.items.jsonl", ROWS[:1])
    with pytest.raises(InputError, match=r"does not belong to a-b.json: its checksum"):
        read_items(tmp_path, result)
    (tmp_path / "a-b.items.jsonl").unlink()
    with pytest.raises(InputError, match=r"a-b.items.jsonl cannot be read"):
        read_items(tmp_path, result)
    with pytest.raises(InputError, match=r"a-b.json has no items: it was written by an earlier"):
        read_items(tmp_path, {"kind": "a", "name": "b"})


def test_lines_without_an_id_and_paths_elsewhere_are_refused(tmp_path):
    about = write_items(tmp_path / "x.jsonl", [{"score": 1}])
    with pytest.raises(InputError, match="every line must be an object with an 'id'"):
        read_items(tmp_path, {"items": about})
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"in/x\.jsonl cannot be read"):
        read_items(tmp_path / "in", {"items": about | {"file": "../x.jsonl"}})


def test_a_run_writes_them_beside_the_result(tmp_path):
    run = Run.create(tmp_path / "run", {"seed": 1})
    payload = dict.fromkeys(("step", "checkpoint", "device", "dtype", "ops", "wall_sec"))
    payload |= {"metric": "m", "value": 1.0, "stderr": 0.1, "n": 1}
    path = run.write_result("a", "b", payload | {"items": {"columns": {"m": "c"}}}, ROWS[:1])
    result = json.loads(path.read_text())
    assert result["items"]["columns"] == {"m": "c"}
    assert read_items(run.results_dir, result) == ROWS[:1]
    assert run.results() == [result]
