"""Sublayers that take their step by products of few rows: the same function as ever."""

from __future__ import annotations

import pytest
import torch

import braidlm.model
from braidlm import laws
from braidlm import state as states
from braidlm.ops import dispatch, rows
from tests.laws.test_model_laws import ALL, build, check, tokens


@pytest.fixture(params=[False, True], ids=["added", "owed"])
def everywhere(monkeypatch, request):
    """On a CPU too, by the formulas: what a GPU's kernels are held to."""
    monkeypatch.setattr(rows, "pays", dispatch.is_plain)
    if request.param:  # what a sublayer gives is left to the next norm
        monkeypatch.setattr(braidlm.model, "pays", lambda hidden: True)
        monkeypatch.setattr(rows, "owes", lambda read, weight, bias: bias is None)
    dispatch.reset()


@pytest.mark.parametrize("name", ALL)
def test_steps_follow_the_full_forward(name, everywhere):
    check(laws.stepped(build(name), tokens(60)[:17], 9))


@pytest.mark.parametrize(
    "name",
    [
        "sequential hybrid",
        "mamba2 no norm, no bias",
        "mean of what is said",
        "scaled add",
        "subtract (Bae)",
        "concat (Falcon-H1)",
        "gate per channel",
        "cross-attention (Lee)",
        "biases of branches without norms",
    ],
)
def test_they_are_taken(name, everywhere):
    laws.stepped(build(name), tokens(60)[:17], 9)
    assert dispatch.used()["rows"] == "naive"
    assert dispatch.used()["ssd_projected"] == "naive"


def test_sums_are_left_to_norms(monkeypatch):
    """Of steps in shares; of whole prompts as they are."""
    monkeypatch.setattr(rows, "pays", dispatch.is_plain)
    monkeypatch.setattr(rows, "owes", lambda read, weight, bias: bias is None)
    model, row = build("sequential hybrid"), tokens(12)[None]
    with torch.no_grad():
        before = model(row[:, :11]).state
        dispatch.reset()
        model(row[:, 11:], state=before)
        assert "rows_settled" not in dispatch.used()
        monkeypatch.setattr(braidlm.model, "pays", lambda hidden: True)
        model(row[:, 11:], state=before)
        assert dispatch.used()["rows_settled"] == dispatch.used()["rows_owed"] == "naive"
        monkeypatch.setattr(rows, "pays", lambda x: False)
        model(row)
        assert dispatch.used()["add_norm"] == "torch"


@torch.no_grad()
def test_only_a_state_that_is_reserved_is_written(everywhere):
    model = build("sequential hybrid")
    row = tokens(12)[None]
    before = model(row[:, :11]).state
    copy = states.map_tensors(torch.clone, before)
    first = model(row[:, 11:], state=before).hidden
    for old, kept in zip(states.tensors(before[0]), states.tensors(copy[0]), strict=True):
        assert torch.equal(old, kept)
    reserved = model.reserve(copy, 1)
    after = model(row[:, 11:], state=reserved)
    torch.testing.assert_close(after.hidden, first, rtol=0, atol=1e-12)
    places = [[t.data_ptr() for t in states.tensors(s[0])] for s in (reserved, after.state)]
    assert places[0] == places[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_kernels_follow_the_full_forward(name, n_rows):
    """From a state with room, in fp32; what a graph records."""
    model = build(name, torch.float32).cuda()
    row = tokens(n_rows * 30).view(n_rows, 30).cuda()
    with torch.no_grad():
        whole = model(row)
        state = model.reserve(model(row[:, :9]).state, 21)
        hidden = []
        for t in range(9, 30):
            out = model(row[:, t : t + 1], state=state)
            hidden.append(out.hidden)
            state = out.state
    assert float((torch.cat(hidden, 1) - whole.hidden[:, 9:]).abs().max()) < 1e-4
