"""What a person reads, drawn on a small terminal that the test keeps."""

import io
import os
import re

import pytest

from braidlm.study import display as room
from braidlm.study.display import Bars, Lines, Silent, Work, bar, display, duration
from tests.study.test_eta import Clock

WORK = {"hybrid/seed-0": Work(10.0), "m/seed-0": Work(10.0), "m/seed-1": Work(10.0)}
STEP = {"step": 25, "steps": 100, "loss": 2.34567, "tokens_per_sec": 12345.6}


class Screen(io.StringIO):
    """Obeys the three codes that the bars use: up, clear below, newline."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = [""]
        self.row = 0

    def write(self, text: str) -> int:
        for code, amount, plain in re.findall(r"\x1b\[(\d*)([AJ])|([^\x1b\n]+|\n)", text):
            if amount == "A":
                self.row -= int(code)
                assert self.row >= 0
            elif amount == "J":
                del self.lines[self.row :]
                self.lines.append("")
            elif plain == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            else:
                self.lines[self.row] = plain
        return len(text)

    def isatty(self) -> bool:
        return True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> tuple[Bars, Screen, Clock]:
    monkeypatch.setattr(room.shutil, "get_terminal_size", lambda: os.terminal_size((100, 24)))
    screen, clock = Screen(), Clock()
    return Bars("sweep", WORK, 2, screen, clock), screen, clock


def test_bars_keep_one_block_and_leave_a_line_for_each_end(drawn: tuple[Bars, Screen, Clock]):
    bars, screen, clock = drawn
    bars.start("hybrid/seed-0")
    bars.start("m/seed-0")
    bars.update("hybrid/seed-0", {"step": 0, "steps": 100})
    clock.to(10.0)
    bars.update("hybrid/seed-0", STEP)
    assert screen.lines == [
        "sweep: 0/3 runs done, 0:10 elapsed, about 1:10 left",
        "  hybrid/seed-0   25% ━━━━────────────  25/100  loss 2.3457  12,346 tokens/s  0:30 left",
        "  m/seed-0         0% ──────────────── starting",
        "",
    ]
    bars.finish("m/seed-0", "failed", "RuntimeError: out of luck")
    bars.say("stopping")
    assert screen.lines[:3] == [
        "m/seed-0       failed after 0:10: RuntimeError: out of luck",
        "stopping",
        "sweep: 0/3 runs done, 1 failed, 0:10 elapsed, about 0:40 left",
    ]
    assert len(screen.lines) == 5
    bars.update("hybrid/seed-0", {"state": "done"})
    clock.to(12.0)
    bars.update("hybrid/seed-0", {"task": "lm-held-out", "step": 3, "steps": 6})
    assert screen.lines[3] == "  hybrid/seed-0   50% ━━━━━━━━──────── evaluating lm-held-out"
    bars.finish("hybrid/seed-0", "done", None)
    bars.close()
    assert screen.lines == [
        "m/seed-0       failed after 0:10: RuntimeError: out of luck",
        "stopping",
        "hybrid/seed-0  done after 0:12",
        "",
    ]


def test_bars_draw_at_most_ten_times_a_second_and_go_on_by_themselves(
    drawn: tuple[Bars, Screen, Clock],
):
    bars, screen, clock = drawn
    bars.start("m/seed-0")
    for step in range(50):
        bars.update("m/seed-0", {"step": step, "steps": 100})
    assert "starting" in screen.lines[1]
    clock.to(0.1)
    bars.tick()
    assert " 49/100" in screen.lines[1]
    clock.to(61.0)
    bars.tick()
    assert "1:01 elapsed" in screen.lines[0]


def test_bars_fit_the_terminal(drawn: tuple[Bars, Screen, Clock], monkeypatch: pytest.MonkeyPatch):
    bars, screen, _ = drawn
    monkeypatch.setattr(room.shutil, "get_terminal_size", lambda: os.terminal_size((30, 4)))
    for run in WORK:
        bars.start(run)
    assert [len(line) <= 29 for line in screen.lines] == [True] * len(screen.lines)
    assert screen.lines[2:] == ["  and 2 more", ""]


def test_lines_speak_when_there_is_something_new():
    stream, clock = io.StringIO(), Clock()
    lines = Lines("sweep", WORK, 1, stream, clock)
    lines.start("m/seed-0")
    lines.update("m/seed-0", {"step": 0, "steps": 100})
    clock.to(19.0)
    lines.update("m/seed-0", STEP)
    assert stream.getvalue() == "m/seed-0: starts\n"
    clock.to(20.0)
    lines.update("m/seed-0", STEP)
    clock.to(50.0)
    lines.update("m/seed-0", STEP | {"step": 29})
    clock.to(51.0)
    lines.update("m/seed-0", STEP | {"step": 30})
    clock.to(200.0)
    lines.update("m/seed-0", STEP | {"step": 31})
    clock.to(352.0)
    lines.update("m/seed-0", STEP | {"step": 31})
    lines.finish("m/seed-0", "done", None)
    said = stream.getvalue().splitlines()
    assert said[1] == (
        "m/seed-0: 25/100  loss 2.3457  12,346 tokens/s  1:00 left; "
        "sweep: 0/3 runs done, 0:20 elapsed, about 3:40 left"
    )
    assert [line.split()[1].strip(";") for line in said[2:]] == ["30/100", "31/100", "done"]
    assert "\x1b" not in stream.getvalue()


def test_an_event_of_another_kind_harms_nothing(drawn: tuple[Bars, Screen, Clock]):
    bars, screen, _ = drawn
    bars.start("m/seed-0")
    bars.update("m/seed-0", {"unknown": 1})
    bars.update("m/seed-0", {"step": 1, "steps": 2, "loss": None})
    bars.finish("m/seed-0", "interrupted", None)
    assert "1 interrupted" in screen.lines[1]


def test_the_display_follows_the_stream(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room.sys, "stderr", io.StringIO())
    lines = display("x", WORK, 1, n_done=4)
    assert isinstance(lines, Lines)
    assert lines.summary().startswith("x: 4/7 runs done")
    monkeypatch.setattr(room.sys, "stderr", Screen())
    assert isinstance(display("x", WORK, 1), Bars)
    assert isinstance(display("x", WORK, 1, is_silent=True), Silent)


def test_words_for_bars_and_times():
    assert (bar(0, 0, 4), bar(1, 2, 4), bar(7, 7, 4)) == ("────", "━━──", "━━━━")
    assert (duration(7.4), duration(725), duration(10809)) == ("0:07", "12:05", "3:00:09")
