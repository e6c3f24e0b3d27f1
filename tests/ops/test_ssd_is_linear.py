"""Work that grows with the square of the length would show here: in the products and in time."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from braidlm.ops.ssd import ssd

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ssd_linear_in_t.py"


class CountElements(TorchDispatchMode):
    """Adds up the elements of every tensor that is made."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, list | tuple) else (out,)
        self.total += sum(t.numel() for t in made if isinstance(t, torch.Tensor))
        return out


def elements_made(n_chunks: int) -> int:
    length = 4 * n_chunks
    args = [torch.randn(1, length, 2, 3), torch.rand(1, length, 2), -torch.rand(2)]
    args += [torch.randn(1, length, 1, 3), torch.randn(1, length, 1, 3)]
    args = [v.requires_grad_() for v in args]
    with CountElements() as counter:
        y, _ = ssd(*args, chunk_size=4, return_state=False)
        y.sum().backward()
    return counter.total


def test_twice_the_chunks_make_at_most_twice_the_elements():
    assert elements_made(256) <= 2.05 * elements_made(128)


@pytest.mark.slow
def test_the_benchmark_runs_and_finds_linear_time(capsys):
    spec = importlib.util.spec_from_file_location("ssd_linear_in_t", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    card = script.main(
        ["--longest", "16384", "--heads", "4", "--head-dim", "16", "--d-state", "16"]
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == card
    assert card["growth"] < 4  # quadratic time would be 16; the machine may be busy
