"""Launches that remember what was compiled."""

from __future__ import annotations

import torch

from braidlm.ops import launch
from braidlm.ops.launch import Launcher, described, known_as


class Kernel:
    """Stands for a Triton kernel: writes down how it is called, and what it compiled."""

    arg_names = ("x", "n", "WIDTH", "IS_NEW")

    def __init__(self, compiles: bool = True) -> None:
        self.compiles, self.looked, self.ran = compiles, [], []

    def __getitem__(self, grid):
        def run(*args, num_warps):
            self.looked.append((grid, args, num_warps))
            return Compiled(self) if self.compiles else None

        return run


class Compiled:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *args: self.kernel.ran.append((grid, args))


def test_a_key_is_looked_at_once():
    kernel = Kernel()
    run = Launcher(kernel)
    constants = {"IS_NEW": True, "WIDTH": 8, "unused": 1}
    assert not run.again("a", (1, 2, 3), ("x", 5))
    run.first("a", (1, 2, 3), ("x", 5), constants, 4)
    assert run.again("a", (4, 1, 1), ("y", 5))
    assert not run.again("b", (4, 1, 1), ("y", 5))
    run.first("b", (1, 2, 3), ("x", 6), constants | {"IS_NEW": False}, 8)
    assert kernel.looked == [((1, 2, 3), ("x", 5, 8, True), 4), ((1, 2, 3), ("x", 6, 8, False), 8)]
    assert kernel.ran == [((4, 1, 1), ("y", 5, 8, True))]


def test_one_key_serves_for_all_constants_and_warps():
    kernel = Kernel()
    run = Launcher(kernel)
    for constants, warps in (({"WIDTH": 8}, 4), ({"WIDTH": 16}, 4), ({"WIDTH": 8}, 8)) * 2:
        run.run("a", (1, 1, 1), ("x", 5), {**constants, "IS_NEW": False}, warps)
    assert [(args[2], warps) for _, args, warps in kernel.looked] == [(8, 4), (16, 4), (8, 8)]
    assert [args[2] for _, args in kernel.ran] == [8, 16, 8]


def test_what_compiles_nothing_is_looked_at_every_time():
    kernel = Kernel(compiles=False)
    run = Launcher(kernel)
    run.first("a", (1, 1, 1), (), dict.fromkeys(Kernel.arg_names, 0), 4)
    assert not run.again("a", (1, 1, 1), ())
    assert len(kernel.looked) == 1


def test_it_forgets_before_it_grows_without_end(monkeypatch):
    monkeypatch.setattr(launch, "MOST", 3)
    run = Launcher(Kernel())
    for key in range(10):
        run.first(key, (1, 1, 1), (), dict.fromkeys(Kernel.arg_names, 0), 4)
    assert len(run.known) <= 3


def test_a_number_stands_for_one_key_even_after_forgetting(monkeypatch):
    monkeypatch.setattr(launch, "MOST", 3)
    numbers = [known_as(("key", i)) for i in range(10)]
    assert len(set(numbers)) == 10
    assert known_as(("key", 9)) == numbers[-1]


def test_a_key_tells_apart_what_kernels_may_depend_on():
    x = torch.zeros(8, 8)
    same = torch.ones(8, 8)
    others = [
        x.double(),
        x[:4],
        x.T,
        x.flatten()[1:57].view(7, 8),
        x.flatten()[1:].view(7, 9),
        None,
    ]
    assert described(x, None) == described(same, None)
    assert all(described(x) != described(other) for other in others)
    shifted = torch.zeros(65)[1:].view(8, 8)
    assert described(shifted) != described(x)
