"""Influence over distance, on maps whose Jacobian is known."""

import math
from typing import Any

import pytest
import torch

from braidlm.analysis.jacobian import half_distance, squared_by_nudge, squared_by_probe
from braidlm.mixers import build
from braidlm.ops.attention import attention
from braidlm.ops.ssd import ssd
from tests.specs import spec

T, D = 40, 6


def rng():
    return torch.Generator().manual_seed(0)


def delay(x):
    """u_t = x_{t-5}."""
    return torch.nn.functional.pad(x, (0, 0, 5, 0))[:, : x.shape[1]]


def looks_back(x, distance=3):
    """A head whose query at t fits the key at t - 3 alone, and copies x from there."""
    at = torch.eye(T, dtype=x.dtype)[None, :, None] * 200
    asked = at.roll(-distance, dims=-1)
    return attention(asked, at, x[:, :, None], return_state=False)[0].flatten(2)


def decays(x, half_life=8):
    """Every channel a state of its own that halves every 8 tokens: u_t = sum_d 2^(-d/8) x_{t-d}."""
    one = torch.ones(1, T, 1, 1, dtype=x.dtype)
    dt = torch.ones(1, T, 1, dtype=x.dtype)
    A = torch.tensor([-math.log(2) / half_life], dtype=x.dtype)
    return ssd(x[:, :, None], dt, A, one, one, chunk_size=16, return_state=False)[0].flatten(2)


def known(name):
    want = torch.zeros(T).double()
    if name == "decay":
        return D * 2.0 ** (-2 * torch.arange(T).double() / 8)
    want[5 if name == "delay" else 3] = D
    return want


MAPS = {"delay": delay, "head": looks_back, "decay": decays}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("n_probes", [D, 3])
def test_known_maps_by_products(name, n_probes):
    """Of these maps J is a multiple of the identity, so that random signs have no error either."""
    x = torch.randn(1, T, D, dtype=torch.float64)
    found = squared_by_probe(MAPS[name], x, n_probes, rng())
    assert len(found) == (1 if n_probes == D else 3)
    torch.testing.assert_close(found, known(name).expand_as(found), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", MAPS)
def test_known_maps_by_nudges_of_any_size(name):
    x = torch.randn(1, T, D, dtype=torch.float64)
    distances = [0, 1, 3, 5, 8]
    found = squared_by_nudge(MAPS[name], x, distances, 2, rng(), size=2.0)
    want = known(name)[distances].expand(2, -1)
    torch.testing.assert_close(found, want, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("pattern", ["M", "*", "G", "S", "W"])
def test_mixers_against_the_whole_jacobian(pattern):
    whole = spec(pattern, mixers={"W": {"kind": "attention", "head_dim": 4, "window": 4}})
    mixer = build(whole.sublayers[0].branches[0], 16, 1e-5, 0.0, "").double()
    mixer.reset_parameters(0.3)
    x = torch.randn(1, 12, 16, dtype=torch.float64)

    def function(x):
        return mixer(x, None, None, False)[0]

    jacobian: Any = torch.autograd.functional.jacobian(lambda x: function(x)[0, -1], x)
    want = jacobian[:, 0].square().sum((0, 2)).flip(0)
    exact = squared_by_probe(function, x, 1000, rng())[0]
    torch.testing.assert_close(exact, want)
    probes = squared_by_probe(function, x, 9, rng())
    error = probes.std(0) / len(probes) ** 0.5
    assert ((probes.mean(0) - want).abs() <= 4 * error + 1e-12).all()
    near = [0, 1, 4, 11]
    nudges = squared_by_nudge(function, x, near, 30, rng(), size=1e-5)
    error = nudges.std(0) / len(nudges) ** 0.5
    assert ((nudges.mean(0) - want[near]).abs() <= 5 * error + 1e-6 * want.max()).all()
    if pattern == "W":
        assert not exact[4:].any()


def test_half_distance():
    assert half_distance(known("delay")) == 5
    # 2^(-d/4) summed: half of it lies within four tokens, less what the end cuts off.
    assert half_distance(known("decay")) == 4
    assert math.isnan(half_distance(torch.tensor([1.0, 0.0])))
    assert math.isnan(half_distance(torch.tensor([1.0])))
