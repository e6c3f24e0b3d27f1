import json
import subprocess
import sys
import types

import pytest

from braidlm.errors import InputError
from braidlm.runs import Run
from braidlm.train.writers import check_installed, numbers

from .test_loop import stop_at
from .tiny import BreakingMixture, recipe, run


def scalars(path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a folder of event files, with nothing left out."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(
        str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False
    )
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_gets_every_number_of_the_log_once_also_after_a_crash(tmp_path):
    config = recipe(log_to=["tensorboard"], checkpoint_every=3, telemetry_every=4)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, config, mixture=BreakingMixture(5, lambda: 1 / 0))
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["loss"]] == [1, 2, 3, 4, 5]
    run(tmp_path, config, resume=True)
    found = scalars(tmp_path / "tensorboard")
    rows = {row["step"]: numbers(row) for row in Run.open(tmp_path).metrics()}
    assert list(rows) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [step for step, _ in found["loss"]] == list(rows)
    assert [step for step, _ in found["telemetry/grad_norm/embedding"]] == [1, 4, 8]
    for tag, points in found.items():
        for step, value in points:
            assert value == pytest.approx(rows[step][tag], rel=1e-6)
    assert set(found) == {tag for row in rows.values() for tag in row}


def test_a_writer_that_is_added_on_resume_gets_the_whole_run(tmp_path):
    run(tmp_path, recipe())
    run(tmp_path, recipe(steps=9, log_to=["tensorboard"]), resume=True)
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["lr"]] == list(range(1, 10))


class FakeTrackio(types.ModuleType):
    """Remembers what the package would keep in its own database."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.runs: dict[str, list[tuple[int, dict]]] = {}
        self.calls: list[tuple] = []

    def init(self, project, name, config, resume, embed):
        self.calls.append(("init", project, resume))
        assert (name in self.runs) == (resume == "allow")
        assert config["seed"] == 7
        self.current = self.runs.setdefault(name, [])

    def log(self, metrics, step):
        self.current.append((step, metrics))

    def finish(self):
        self.calls.append(("finish",))


def test_trackio_gets_every_row_once_also_after_a_crash(tmp_path, monkeypatch):
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    config = recipe(log_to=["trackio"], checkpoint_every=3)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, config, mixture=BreakingMixture(5, lambda: 1 / 0))
    run(tmp_path, config, mixture=stop_at(5), resume=True)
    run(tmp_path, config, resume=True)
    ((name, sent),) = fake.runs.items()
    assert name.startswith("seed-7-")
    assert [step for step, _ in sent] == list(range(1, 9))
    rows = Run.open(tmp_path).metrics()
    for (step, values), row in zip(sent, rows, strict=True):
        assert step == row["step"]
        assert values["loss"] == row["loss"]
        assert values["sources/a"] == row["sources"]["a"]
    assert [call[0] for call in fake.calls] == ["init", "finish"] * 3
    assert fake.calls[0] == ("init", "tiny", "never")


def test_what_is_no_finite_number_is_left_out():
    row = {"step": 3, "loss": None, "lr": 1, "a": {"b": {"c": 2.0}, "d": float("nan")}, "w": "x"}
    assert numbers(row) == {"lr": 1.0, "a/b/c": 2.0}


def test_an_absent_package_is_one_sentence_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    words = r"train\.log_to = 'trackio': it cannot be imported .*pip install 'braidlm\[trackio\]'"
    with pytest.raises(InputError, match=words):
        run(tmp_path / "a", recipe(log_to=["trackio"]))
    assert not (tmp_path / "a").exists()


def test_without_writers_nothing_is_imported():
    code = (
        "import sys, braidlm.train.writers as w; w.check_installed(())\n"
        "print([m for m in ('tensorboard', 'trackio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    check_installed(())
