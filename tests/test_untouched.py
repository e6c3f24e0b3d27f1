"""Hooks and adapters take part where shorter ways than calls of the parts would pass them by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from braidlm import HybridLM
from braidlm.analysis.cuts import branches_cut, heads_cut
from braidlm.errors import InputError
from braidlm.generate.mode import precise_logits
from braidlm.laws.lively import enliven
from braidlm.mixers.untouched import is_untouched
from braidlm.ops import dispatch, rows
from tests.specs import spec

IDS = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(1))
SUMS = {"norm": "rms", "combine": "mean"}


def lively(pattern: str, **fields: Any) -> HybridLM:
    model = HybridLM(spec(pattern, **fields)).double().eval()
    enliven(model)
    return model


class Low(nn.Module):
    """As adapters of other libraries are: a product beside the one it stands for."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def added_one(module: Any, given: Any, x: Any) -> Any:
    return x + 1


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@torch.no_grad()
def steps(model: HybridLM) -> torch.Tensor:
    """Hidden states of the last tokens, by steps."""
    state = model(IDS[:, :5]).state
    found = []
    for t in range(5, 9):
        out = model(IDS[:, t : t + 1], state=state)
        state = out.state
        found.append(out.hidden)
    return torch.cat(found, 1)


@pytest.fixture
def agree(monkeypatch):
    """Holds steps by products of rows to the usual ones; returns what they say."""

    def check(model: HybridLM, used: bool) -> torch.Tensor:
        usual = steps(model)
        with monkeypatch.context() as patched:
            patched.setattr(rows, "pays", dispatch.is_plain)
            dispatch.reset()
            found = steps(model)
            assert ("rows" in dispatch.used()) is used
        torch.testing.assert_close(found, usual, rtol=0, atol=1e-12)
        return found

    return check


@pytest.mark.parametrize(
    ("pattern", "place", "fields"),
    [("M-*-", "2", {}), ("M-*-", "0", {}), ("{M*}-", "0.1", {"fusion": SUMS})],
)
def test_cuts_are_made_in_steps_too(agree, pattern, place, fields):
    model = lively(pattern, **fields)
    whole = agree(model, used=True)
    for cut in (heads_cut(model, {place: [1, 2]}), branches_cut(model, [place])):
        with cut:
            assert not torch.allclose(agree(model, used=True), whole)
    assert torch.equal(agree(model, used=True), whole)


@pytest.mark.parametrize("name", ["in_proj", "out_proj"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_an_adapter_in_the_place_of_a_projection_takes_part(agree, layer, name):
    model = lively("M-*-")
    whole = agree(model, used=True)
    mix: Any = model.blocks[layer].mix
    holder = mix.mixer if name == "in_proj" else mix
    setattr(holder, name, Low(getattr(holder, name)))
    assert not torch.allclose(agree(model, used=True), whole)
    assert not is_untouched(mix)


def test_hooks_on_norms_and_weights_that_are_made_take_part(agree):
    model = lively("M-*-")
    whole = agree(model, used=True)
    norm: Any = model.blocks[1].norm
    hook = norm.register_forward_hook(lambda module, given, x: 2 * x)
    assert not torch.allclose(agree(model, used=True), whole)
    hook.remove()
    mix: Any = model.blocks[2].mix
    parametrize.register_parametrization(mix.mixer.in_proj, "weight", Twice())
    assert not torch.allclose(agree(model, used=True), whole)


def test_where_every_part_is_hooked_no_row_goes_the_short_way(agree):
    model = lively("M-*-")
    for module in model.modules():
        module.register_forward_hook(lambda module, given, x: None)
    agree(model, used=False)


@torch.no_grad()
def test_a_hook_on_the_head_takes_part_in_logits_and_is_refused_by_the_loss(monkeypatch):
    model = lively("M-*-")
    monkeypatch.setattr(rows, "pays", dispatch.is_plain)
    hidden = model(IDS).hidden[:, -1]
    dispatch.reset()
    whole = precise_logits(model, hidden)
    assert dispatch.used()["rows"] == "naive"
    hook = model.lm_head.register_forward_hook(added_one)
    moved = precise_logits(model, hidden) - whole
    torch.testing.assert_close(moved, torch.ones_like(moved), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="lm_head is read and lm_head never called"):
        model.loss(IDS, IDS)
    hook.remove()
    assert torch.isfinite(model.loss(IDS, IDS))


@pytest.mark.parametrize("place", ["block", "last"])
def test_hooks_on_norms_take_part_where_sums_are_left_to_them(monkeypatch, place):
    """`due` is made in training on a GPU; here by the formulas."""
    model = lively("M-*-").train()
    norm: Any = model.blocks[1].norm if place == "block" else model.norm
    norm.register_forward_hook(lambda module, given, x: 2 * x)
    usual = model(IDS, return_state=False).hidden
    monkeypatch.setattr("braidlm.model.pays", lambda hidden: True)
    torch.testing.assert_close(model(IDS, return_state=False).hidden, usual, rtol=0, atol=1e-12)


def test_hooks_on_blocks_see_a_stream_in_which_nothing_is_due(monkeypatch):
    model = lively("M-*-").train()
    seen: list[torch.Tensor] = []

    def note(block: Any, given: Any, result: Any) -> None:
        seen.append(result[0].hidden)

    for block in model.blocks:
        block.register_forward_hook(note)
    model(IDS, return_state=False)
    monkeypatch.setattr("braidlm.model.pays", lambda hidden: True)
    model(IDS, return_state=False)
    for usual, owed in zip(seen[:4], seen[4:], strict=True):
        torch.testing.assert_close(owed, usual, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("pattern", "fields", "name"),
    [("+", {}, "kv_up"), ("S", {"S": {"n_groups": 2}}, "dt_proj")],
)
def test_an_adapter_on_what_is_never_called_is_refused(pattern, fields, name):
    model = lively(pattern, mixers=fields)
    model(IDS)
    mixer: Any = model.blocks[0].mix.mixer  # pyright: ignore[reportAttributeAccessIssue]
    setattr(mixer, name, Low(getattr(mixer, name)))
    with pytest.raises(InputError, match=f"weight of {name} is read and {name} never called"):
        model(IDS)
