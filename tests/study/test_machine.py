"""How a machine is divided among runs."""

import os
from typing import Any

import pytest

from braidlm.arch import Recipe
from braidlm.study import machine


def recipe(device: str) -> Recipe:
    source = {"kind": "mqar", "vocab_size": 16, "n_pairs": [2], "length": 16}
    return Recipe.from_dict(
        {
            "model": {"pattern": "*-", "d_model": 8, "vocab_size": 32},
            "data": {"seq_len": 16, "sources": [source]},
            "train": {"device": device},
        }
    )


@pytest.mark.parametrize(
    ("device", "gpus", "n_runs", "jobs", "expected"),
    [
        ("cpu", ("0", "1"), 10, 0, (8, 1, ())),
        ("auto", (), 10, 0, (8, 1, ())),
        ("auto", ("0", "1"), 10, 0, (2, 4, ("0", "1"))),
        ("cuda", ("0",), 10, 3, (3, 2, ("0",))),
        ("cpu", (), 3, 0, (3, 2, ())),
        ("cpu", (), 40, 20, (20, 1, ())),
    ],
)
def test_one_run_per_gpu_else_per_core(
    device: str,
    gpus: tuple[str, ...],
    n_runs: int,
    jobs: int,
    expected: tuple[int, int, tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(machine, "count_cores", lambda: 8)
    monkeypatch.setattr(machine, "visible_gpus", lambda: gpus)
    assert machine.share([recipe(device)] * n_runs, jobs) == machine.Share(*expected)


class Driver:
    """A driver that shows some GPUs."""

    def __init__(self, count: int) -> None:
        self.count = count

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 2, ("0", "1")), ("4,6", 2, ("4", "6")), ("GPU-a", 1, ("GPU-a",)), ("4,9", 1, ("4",))],
)
def test_gpus_keep_the_names_by_which_they_are_visible(
    visible: str | None, count: int, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _name: Driver(count))
    assert machine.visible_gpus() == expected


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    def missing(_name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert machine.visible_gpus() == ()


def test_cores_are_those_that_may_be_used():
    assert 1 <= machine.count_cores() <= (os.cpu_count() or 1)
