import io

import pytest

from braidlm.train.progress import Terminal, blocks, duration


class Screen(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_file_gets_plain_lines_now_and_then(clock):
    file = io.StringIO()
    bar = Terminal(stream=file, line_sec=10, clock=clock)
    bar.start("hybrid", 0, 100)
    for step in range(1, 101):
        clock.now += 0.5
        bar.update(step, 5.0 - step / 100, 64)
    bar.close("done")
    lines = file.getvalue().splitlines()
    assert lines[0] == "hybrid  0/100"
    assert lines[1] == "hybrid  20/100  loss 4.8000  128 tok/s  0:40 left"
    assert lines[-1] == "hybrid  100/100  loss 4.0000  128 tok/s  done in 0:50"
    assert len(lines) == 7
    assert "\r" not in file.getvalue()


def test_a_terminal_gets_one_line_that_is_redrawn_and_fits(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    bar = Terminal("arm/seed-0", screen, clock=clock)
    bar.start("hybrid", 0, 4)
    for step in range(1, 5):
        clock.now += 1
        bar.update(step, 1.0, 10)
    bar.close("interrupted")
    drawn = screen.getvalue().split("\r\x1b[K")[1:]
    assert len(drawn) == 6
    assert all(len(line.rstrip("\n")) <= 39 for line in drawn)
    assert " 50% " + "━" * 8 + "─" * 8 + " arm/seed-0" in drawn[2]
    assert screen.getvalue().count("\n") == 1


def test_fast_steps_are_not_all_drawn(clock):
    screen = Screen()
    bar = Terminal("", screen, redraw_sec=0.1, clock=clock)
    bar.start("hybrid", 0, 1000)
    for step in range(1, 1001):
        clock.now += 0.001
        bar.update(step, 1.0, 10)
    assert 9 <= screen.getvalue().count("\r") <= 11


def test_a_resumed_run_tells_time_left_by_its_own_pace(clock):
    bar = Terminal("x", io.StringIO(), clock=clock)
    bar.start("x", 90, 100)
    clock.now = 10
    bar.update(95, 1.0, 1000)
    assert bar.line() == "x  95/100  loss 1.0000  100 tok/s  0:10 left"


def test_parts():
    assert blocks(0, 10, 4) == "────"
    assert blocks(10, 10, 4) == "━━━━"
    assert blocks(5, 10, 4) == "━━──"
    assert [duration(s) for s in (7, 725, 10809)] == ["0:07", "12:05", "3:00:09"]
