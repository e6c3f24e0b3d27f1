"""Peers of transformers: the same shapes, the same parameters, its own classes."""

import pytest

pytest.importorskip("transformers")

import dataclasses
import importlib
import sys

import torch

from braidlm.arch import Recipe
from braidlm.bench import Plan, bench
from braidlm.bench.contender import NoPeerError, Setting
from braidlm.bench.peers import transformers as peer
from braidlm.bench.peers.pretrained import Trained
from braidlm.bench.run import DATA
from tests.bench.conftest import MIXERS, PLAN, SMALL, declaration, rows

SIZES = {"d_model": 16, "vocab_size": 300}


def setting(pattern: str, **model) -> Setting:
    mixers = {name: MIXERS[name] for name in dict.fromkeys(pattern) if name in MIXERS}
    recipe = Recipe.from_dict(
        {"data": DATA, "model": {"pattern": pattern, "mixers": mixers, **SIZES, **model}}
    )
    plan = Plan(contexts=(8,), new_tokens=2)
    return Setting(recipe, plan, torch.device("cpu"), "fp32", "fp32")


PARALLEL = {"fusion": {"combine": "add", "norm": "none", "projection": "separate"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "model", "name"),
    [
        ("*-*-", {}, "LlamaForCausalLM"),
        ("MM", {}, "Mamba2ForCausalLM"),
        ("M-*-", {}, "BambaForCausalLM"),
        ("({M*}-)2", PARALLEL, "FalconH1ForCausalLM"),
    ],
)
def test_a_class_of_the_same_shapes_trains_and_answers(pattern, model, name):
    given = setting(pattern, **model)
    trained, answering = peer.LIBRARY.trainee(given), peer.LIBRARY.answerer(given)
    assert isinstance(trained, Trained)
    assert trained.about["class"] == answering.about["class"] == name
    tokens = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in trained.model.state_dict().items()}
    trained.update(tokens)()
    gradients = [p.grad for p in trained.model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    moved = [float((v - before[k]).abs().max()) for k, v in trained.model.state_dict().items()]
    assert 0 <= max(moved) < 1e-6  # a rate of 1e-9: what is measured stays what it was
    answering.prefill(tokens)()
    moments = answering.generate(tokens, 4)()
    assert len(moments) == 4
    assert moments == sorted(moments)


def test_what_it_has_no_class_for_is_said_with_the_reason():
    with pytest.raises(NoPeerError, match="no family expresses this model"):
        peer.LIBRARY.answerer(setting("G*{M*}-"))


@pytest.mark.slow
def test_it_runs_in_turn_with_ours_at_every_point(tmp_path):
    plan = dataclasses.replace(PLAN, contexts=(12,), with_peers=True, dtype="fp32")
    outcome = bench(declaration("M-*-", tmp_path), plan, sizes=SMALL)
    assert [row["mode"] for row in rows(outcome, subject="transformers bamba")] == [*plan.modes]
    assert all(row["why_not"] is None and row["n"] == 3 for row in outcome.rows)
    about = outcome.modes[0].about["transformers bamba"]
    assert about["library"].startswith("transformers 5.")
    assert "mamba_ssm" in about["kernels"]


def test_kernels_that_are_found_and_cannot_be_imported_are_not_told_as_there(tmp_path, monkeypatch):
    (tmp_path / "toy_model.py").write_text(
        "NAMES = 'mamba_ssm', 'causal_conv1d'\nclass Toy: pass\n", encoding="utf-8"
    )
    for name, code in (("mamba_ssm", "import its_compiled_half"), ("causal_conv1d", "")):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    toy = importlib.import_module("toy_model").Toy()
    assert peer.kernels(toy) == "torch path (installed: causal_conv1d; not: mamba_ssm)"
    for name in ("toy_model", "causal_conv1d"):
        del sys.modules[name]
