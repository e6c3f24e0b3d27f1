"""The time left, with a clock that the test turns."""

import pytest

from braidlm.study.eta import Account, Work


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def to(self, now: float) -> None:
        self.now = now


def account(work: dict[str, Work], n_slots: int = 1) -> tuple[Account, Clock]:
    clock = Clock()
    return Account(work, n_slots, clock), clock


def test_a_runs_rate_is_counted_from_where_it_was_continued():
    found, clock = account({"a/seed-0": Work(100.0, 0.2)})
    found.start("a/seed-0")
    clock.to(5.0)
    found.update("a/seed-0", {"step": 80, "steps": 100})
    assert found.left("a/seed-0") is None
    clock.to(15.0)
    found.update("a/seed-0", {"step": 90, "steps": 100, "loss": 1.0})
    assert found.left("a/seed-0") == pytest.approx(10.0)
    clock.to(18.0)
    assert found.left("a/seed-0") == pytest.approx(7.0)
    clock.to(60.0)
    assert found.left("a/seed-0") == 0.0


def test_waiting_runs_of_a_known_arm_take_its_time_and_others_their_flops():
    work = {"a/seed-0": Work(100.0), "b/seed-0": Work(400.0), "a/seed-1": Work(100.0, 0.5)}
    found, clock = account(work)
    assert found.study_left() is None
    found.start("a/seed-0")
    clock.to(2.0)
    found.update("a/seed-0", {"step": 0, "steps": 10})
    clock.to(12.0)
    found.update("a/seed-0", {"step": 5, "steps": 10})
    # a: 2 s a step. 10 s left; b: 2 s to start + 80 s; a/seed-1, half done: 2 s + 10 s
    assert found.study_left() == pytest.approx(10 + 82 + 12)
    clock.to(22.0)
    found.update("a/seed-0", {"step": 10, "steps": 10})
    found.update("a/seed-0", {"state": "done"})
    clock.to(25.0)
    assert found.finish("a/seed-0", "done") == 25.0
    # 3 s of tasks are known now
    assert found.study_left() == pytest.approx(85 + 15)
    found.start("b/seed-0")
    clock.to(27.0)
    assert found.left("b/seed-0") == pytest.approx(83.0)
    found.update("b/seed-0", {"step": 0, "steps": 10})
    clock.to(37.0)
    found.update("b/seed-0", {"step": 5, "steps": 10})
    # b turns out to be faster than its FLOPs promise: 2 s a step
    assert found.left("b/seed-0") == pytest.approx(10 + 3)
    assert found.study_left() == pytest.approx(13 + 15)


def test_runs_side_by_side_share_the_wait():
    work = {f"a/seed-{i}": Work(10.0) for i in range(5)}
    found, clock = account(work, n_slots=2)
    for run in ("a/seed-0", "a/seed-1"):
        found.start(run)
        found.update(run, {"step": 0, "steps": 10})
    clock.to(4.0)
    for run in ("a/seed-0", "a/seed-1"):
        found.update(run, {"step": 4, "steps": 10})
    # 6 s left on both slots, then two runs of 10 s side by side, then one alone
    assert found.study_left() == pytest.approx(6 + 10 + 10)


def test_tasks_have_the_time_that_they_took_before():
    found, clock = account({"a/seed-0": Work(1.0), "a/seed-1": Work(1.0)})
    for begin, run in ((0.0, "a/seed-0"), (10.0, "a/seed-1")):
        clock.to(begin)
        found.start(run)
        found.update(run, {"step": 0, "steps": 1})
        clock.to(begin + 2)
        found.update(run, {"step": 1, "steps": 1, "loss": 0.5})
        found.update(run, {"state": "done"})
        clock.to(begin + 3)
        live = found.update(run, {"task": "lm-x", "step": 5, "steps": 50})
        assert (live.step, live.steps, live.task) == (1, 1, "lm-x")
        if run == "a/seed-0":
            assert found.left(run) is None
            clock.to(8.0)
            found.finish(run, "done")
    assert found.left("a/seed-1") == pytest.approx(6.0 - 1.0)


def test_a_failed_run_teaches_nothing_about_tasks():
    found, clock = account({"a/seed-0": Work(1.0)})
    found.start("a/seed-0")
    found.update("a/seed-0", {"step": 0, "steps": 4})
    clock.to(1.0)
    found.update("a/seed-0", {"step": 2, "steps": 4})
    found.update("a/seed-0", {"state": "failed"})
    assert found.finish("a/seed-0", "failed") == 1.0
    assert found.waiting == []
    assert found.study_left() == 0.0
