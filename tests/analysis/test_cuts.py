"""Cuts: exactly what is named, nothing else, and nothing is left of them afterwards."""

from typing import Any

import pytest
import torch

import braidlm.model
from braidlm.analysis.cuts import branches_cut, heads_cut, layers_skipped, sight_limited
from braidlm.laws.lively import enliven
from braidlm.model import HybridLM
from tests.specs import ALL, spec

IDS = torch.randint(31, (2, 13), generator=torch.Generator().manual_seed(1))


def lively(whole):
    model = HybridLM(whole).eval()
    enliven(model)
    return model


@torch.no_grad()
def said(model):
    return model(IDS).hidden


def test_a_cut_head_is_one_whose_rows_of_the_projection_are_zero():
    model = lively(spec("M-*-"))
    before = said(model)
    with heads_cut(model, {"2": [1, 3]}):
        found = said(model)
    assert torch.equal(said(model), before)
    with torch.no_grad():
        mix: Any = model.blocks[2].mix
        weight = mix.out_proj.weight
        weight.view(16, 4, 4)[:, [1, 3]] = 0
    torch.testing.assert_close(found, said(model))
    assert not torch.allclose(found, before)


def test_a_cut_head_of_a_normed_branch_leaves_the_others_as_they_are():
    model = lively(spec("{M*}-", fusion={"norm": "rms", "combine": "concat"}))
    with heads_cut(model, {"0.1": [2]}):
        found = said(model)
    with torch.no_grad():
        mix: Any = model.blocks[0].mix
        mix.combine.out_proj.weight[:, 16 + 8 : 16 + 12] = 0
    torch.testing.assert_close(found, said(model))


@pytest.mark.parametrize("pattern", ["M-*-", "{M*}-"])
def test_all_heads_are_the_whole_mixer(pattern):
    model, place = lively(spec(pattern)), "2" if pattern[0] == "M" else "0.1"
    with heads_cut(model, {place: range(4)}):
        found = said(model)
    with branches_cut(model, [place]):
        torch.testing.assert_close(said(model), found)
    if pattern[0] == "M":
        with layers_skipped(model, [2]):
            torch.testing.assert_close(said(model), found)


@pytest.mark.parametrize("owes", [False, True])
def test_a_skipped_layer_is_not_there(owes, monkeypatch):
    monkeypatch.setattr(braidlm.model, "pays", lambda hidden: owes)
    model, short = lively(spec("M-*-")), lively(spec("M--"))
    with torch.no_grad():
        for name, other in zip((0, 1, 3), short.blocks, strict=True):
            other.load_state_dict(model.blocks[name].state_dict())
        short.embedding.load_state_dict(model.embedding.state_dict())
        short.norm.load_state_dict(model.norm.state_dict())
    with layers_skipped(model, [2]):
        torch.testing.assert_close(said(model), said(short))


def test_a_cut_in_one_use_of_a_shared_block_leaves_the_other():
    model = lively(ALL["one shared letter"])
    attends = [s.index for s in model.spec.sublayers if s.branches[0].role == "attention"]
    assert len(attends) > 1
    results = [said(model)]
    for places in (attends[:1], attends[1:2], attends):
        with heads_cut(model, {str(at): [0] for at in places}):
            results.append(said(model))
    for i, one in enumerate(results):
        assert not any(torch.allclose(one, other) for other in results[:i])


def test_limited_sight_is_a_window():
    model = lively(spec("M*W", mixers={"W": {"kind": "attention", "head_dim": 4, "window": 3}}))
    before = said(model)
    with sight_limited(model, 5):
        found = said(model)
    windowed = lively(
        spec(
            "MAW",
            mixers={
                "A": {"kind": "attention", "window": 5, "n_heads": 4, "head_dim": 4}
                | {"n_kv_heads": 2},
                "W": {"kind": "attention", "head_dim": 4, "window": 3},
            },
        )
    )
    windowed.load_state_dict(model.state_dict())
    torch.testing.assert_close(found, said(windowed))
    assert torch.equal(said(model), before)


def test_a_model_is_restored_after_an_error():
    model = lively(spec("M*"))
    before = said(model)
    for cut in (sight_limited(model, 2), layers_skipped(model, [0]), heads_cut(model, {"1": [0]})):
        with pytest.raises(KeyError), cut:
            raise KeyError
    assert torch.equal(said(model), before)


def test_what_has_no_such_head_is_refused():
    model = lively(spec("M*E"))
    with (
        pytest.raises(ValueError, match="has no head 4: it has 0 to 3"),
        heads_cut(model, {"1": [4]}),
    ):
        pass
    with pytest.raises(ValueError, match="only mixers with heads"), branches_cut(model, ["2"]):
        pass
