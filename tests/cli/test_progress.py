"""The bar of `braid eval` on a terminal."""

import re

import pytest

from braidlm.cli import progress
from braidlm.cli.progress import TaskBar


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
