"""What `braid eval` and others say on a terminal and elsewhere: how far they are, what came out."""

import re
from contextlib import suppress

import pytest

from braidlm.cli import progress
from braidlm.cli.eval import card
from braidlm.cli.progress import Counter, TaskBar, TaskLines


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_it_tells_items_speed_and_what_is_left(clock, capsys):
    bar = TaskBar()
    bar("recall-fda", 10, 40)
    assert capsys.readouterr().err.split("\r")[-1].strip() == (
        "recall-fda [######------------------] 10/40"
    )
    clock[0] += 5
    bar("recall-fda", 20, 40)  # ten items in five seconds: twenty more take ten
    shown = capsys.readouterr().err
    assert re.search(r"20/40  2\.0 items/s  10 s left *$", shown)
    assert not shown.endswith("\n")
    clock[0] += 10
    bar("recall-fda", 40, 40)
    shown = capsys.readouterr().err
    assert "[########################] 40/40  2.0 items/s  0 s left" in shown
    assert shown.endswith("\n")


def test_it_is_not_drawn_more_often_than_one_can_see(clock, capsys):
    bar = TaskBar()
    for done in range(1, 100):
        clock[0] += 0.01
        bar("x", done, 100)
    assert 9 <= capsys.readouterr().err.count("\r") <= 11
    bar("x", 100, 100)
    assert "100/100" in capsys.readouterr().err


def test_each_task_begins_anew(clock, capsys):
    bar = TaskBar()
    bar("a", 1, 1)
    clock[0] += 50
    bar("b", 4, 8)
    clock[0] += 2
    capsys.readouterr()
    bar("b", 8, 8)
    assert "b [########################] 8/8  2.0 items/s" in capsys.readouterr().err


def test_without_a_terminal_a_line_comes_now_and_then(clock, capsys):
    lines = TaskLines()
    for done in range(1, 7):
        clock[0] += 8
        lines("recall-fda", done, 6)
    assert capsys.readouterr().err.splitlines() == [
        "recall-fda: 3 of 6 in 24 s",
        "recall-fda: 6 of 6 in 48 s",
    ]
    clock[0] += 3
    lines("lm-text", 4, 4)  # quick
    assert capsys.readouterr().err == ""
    clock[0] += 21
    lines("analyze", 1, 9)  # the time since the last task ended is its own
    assert capsys.readouterr().err == "analyze: 1 of 9 in 21 s\n"


def test_what_is_told_where(monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress.progress(is_json=False), TaskBar)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(progress.progress(is_json=False), TaskLines)
    assert progress.progress(is_json=True) is None


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_count_ends_its_line_however_the_work_ends(clock, capsys, monkeypatch, error):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with suppress(ValueError), Counter() as count:
        count(1, 1)
        count(2, 1)
        if error:
            raise error
    shown = capsys.readouterr().err
    assert shown.split("\r")[-1].rstrip(" \n") == (
        "2 passages done, 1 paraphrases accepted in this run"
    )
    assert (shown.count("\r"), shown.count("\n"), shown[-1]) == (2, 1, "\n")


def test_a_count_without_a_terminal_is_whole_lines(clock, capsys):
    with Counter() as count:
        for done in range(1, 6):
            clock[0] += 8
            count(done, done)
    assert capsys.readouterr().err.splitlines() == [
        "3 passages done, 3 paraphrases accepted in this run",
        "5 passages done, 5 paraphrases accepted in this run",
    ]
    with Counter():
        pass
    assert capsys.readouterr().err == ""


def test_a_loss_of_nothing_has_no_sign():
    found = {"value": -1e-9, "stderr": 0.0, "n": 8, "unit": "share", "low": -1e-6, "high": 0.01}
    head = {"kind": "lm", "name": "x", "checkpoint": "step-1", "device": "cpu", "dtype": "fp32"}
    drawn = card({**head, "wall_sec": 0.1, "metric": "a", "metrics": {"a": found}})
    assert drawn.endswith("0.0000 ± 0.0000 (n = 8) [0.0000, 0.0100] share")
    assert "-0.0000" not in drawn
