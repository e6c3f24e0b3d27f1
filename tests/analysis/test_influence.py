"""Influence on real layers: against whole Jacobians, and in places where it must be nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from braidlm.analysis import influence
from braidlm.analysis.capture import walk
from braidlm.analysis.influence import edges_of, is_measured, of_model, of_part
from braidlm.analysis.inputs import Document, Inputs
from braidlm.analysis.instrument import Subject
from braidlm.laws.lively import enliven
from braidlm.model import HybridLM
from tests.analysis.known import mixer_of
from tests.specs import ALL, spec

T = 13


def lively(whole):
    model = HybridLM(whole).eval()
    enliven(model)
    return model


def subject(model, n=2, length=T):
    rng = np.random.default_rng(0)
    vocab = model.spec.vocab_size
    documents = [Document(str(i), rng.integers(vocab, size=length)) for i in range(n)]
    return Subject(model, Inputs("", "text", {}, documents))


def measured(model, **settings):
    return influence.run(subject(model, **settings), lambda done, total: None)


def test_edges():
    assert edges_of(13).tolist() == [0, 1, 2, 4, 8, 13]
    assert edges_of(8).tolist() == [0, 1, 2, 4, 8]
    assert edges_of(2).tolist() == [0, 1, 2]


def test_long_documents_are_sampled(monkeypatch):
    monkeypatch.setattr(influence, "LONG", 8)
    model = lively(spec("M*"))
    found = measured(model, n=8, length=20)
    assert len(found.rows) == 8 * 8 // 20
    assert all("nudged" not in row for row in found.tables["by_distance"])
    whole = measured(model, n=8, length=8)
    assert len(whole.rows) == 8
    assert sum("nudged" in row for row in whole.tables["by_distance"]) == 2 * 4
    assert [influence.n_probes_of(n) for n in (8, 16, 32, 100)] == [8, 4, 2, 2]


NAMES = ["shared, normed afterwards", "meta tokens before parallel branches (Hymba)", "mamba1"]
FACTORS = spec("*M", mixers={"*": {"in_multiplier": 0.5, "out_multiplier": 3.0}})


@pytest.mark.parametrize(
    "whole", [*(ALL[name] for name in NAMES), FACTORS], ids=[*NAMES, "factors"]
)
@torch.no_grad()
def test_functions_are_the_models_own(whole):
    model = lively(whole)
    ids = torch.randint(31, (1, T))
    function, embedded = of_model(model, ids)
    n_meta = model.spec.n_meta_tokens
    torch.testing.assert_close(function(embedded)[:, n_meta:], model(ids).hidden)
    for layer in walk(model, ids):
        for i, part in enumerate(layer.parts):
            if is_measured(part) and layer.parallel is not None:
                torch.testing.assert_close(of_part(part)(part.x), layer.voices.u[i])
            elif is_measured(part) and i == 0:
                torch.testing.assert_close(of_part(part)(part.x), u_of(layer))


def u_of(layer):
    """What the output projection of a single mixer gets."""
    got: list[torch.Tensor] = []
    project = layer.block.mix.out_proj
    hook = project.register_forward_pre_hook(lambda module, given: got.append(given[0]))
    layer.block(layer.stream, layer.segments, None, False)
    hook.remove()
    return got[0]


@pytest.mark.parametrize("name", ["shared, normed afterwards", "meta tokens"])
def test_the_models_line_is_its_whole_jacobian(name, monkeypatch):
    """d hidden of the last token / d embedded tokens, however often these are read again."""
    model = lively(ALL[name])
    (document,) = subject(model, n=1).inputs.documents
    ids = torch.from_numpy(document.tokens)[None]

    def whole(x):
        hook = model.embedding.register_forward_hook(lambda module, given, out: x)
        hidden = model(ids).hidden[0, -1]
        hook.remove()
        return hidden

    embedded = model.embedding(ids).detach()
    jacobian: Any = torch.autograd.functional.jacobian(whole, embedded)
    squares = jacobian[:, 0].square().sum((0, 2)).flip(0)
    guessed = lines_of(model)
    monkeypatch.setattr(influence, "N_PROBES", 16)  # as many as there are channels: no error
    for row, guess in zip(lines_of(model), guessed, strict=True):
        inside = squares[row["start"] : row["end"]]
        assert row["influence"] == pytest.approx(float(inside.mean().sqrt()), rel=1e-4)
        assert row["share"] == pytest.approx(float(inside.sum() / squares.sum()), rel=1e-4)
        assert row["probes_stderr"] == 0 < guess["probes_stderr"]
        assert guess["influence"] == pytest.approx(row["influence"], rel=0.5)


def lines_of(model):
    table = measured(model, n=1).tables["by_distance"]
    return [row for row in table if row["place"] == "model"]


def test_a_window_hides_what_is_far_from_a_layer_and_from_a_model():
    model = lively(spec("W-W", mixers={"W": {"kind": "attention", "head_dim": 4, "window": 3}}))
    table = measured(model).tables["by_distance"]
    by_place = {(row["place"], row["start"]): row for row in table}
    for place in ("0", "2"):
        assert by_place[place, 2]["influence"] > 0  # d = 2, the last that a window of 3 sees
        assert by_place[place, 4]["influence"] == by_place[place, 8]["influence"] == 0
        assert by_place[place, 4]["nudged"] == 0
    assert by_place["model", 4]["influence"] > 0  # through two windows: at most d = 4
    assert by_place["model", 8]["influence"] == 0
    assert {row["place"] for row in table} == {"model", "0", "2"}
    assert sum(row["share"] for row in table if row["place"] == "0") == pytest.approx(1)


def test_a_recurrence_that_forgets_at_once_has_only_its_convolution():
    model = lively(spec("M", mixers={"M": {"d_conv": 2}}))
    mixer: Any = mixer_of(model)
    with torch.no_grad():
        mixer.dynamics.A_log.fill_(12.0)
    found = measured(model)
    far = [r["influence"] for r in found.tables["by_distance"] if r["place"] == "0"][2:]
    assert max(far) == 0
    nudged = [r["nudged"] for r in found.tables["by_distance"] if r["place"] == "0"]
    assert max(nudged[2:]) == 0 < nudged[1]
    assert found.metrics["recurrent_half_distance"]["value"] == 1
    assert "attention_half_distance" not in found.metrics


def test_borrowers_and_fusions_are_left_out():
    model = lively(ALL["meta tokens before parallel branches (Hymba)"])
    places = {row["place"] for row in measured(model, n=1).tables["by_place"]}
    assert "model" in places
    with torch.no_grad():
        for layer in walk(model, torch.randint(31, (1, T))):
            for part in layer.parts:
                assert (part.place in places) == is_measured(part)


def test_nothing_to_measure():
    assert influence.why_not(spec("-").sublayers) == "no layer mixes tokens"
    assert influence.why_not(spec("-M").sublayers) is None
