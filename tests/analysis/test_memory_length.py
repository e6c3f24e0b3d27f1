"""Half-lives and strengths of recurrences whose decays were set by hand."""

import math

import numpy as np
import pytest
import torch

from braidlm.analysis.memory_length import INSTRUMENT
from tests.specs import DELTA, spec

from .known import inputs_of, look, mixer_of, model_of, random_inputs

HALF_LIVES = (2.0, 7.0, 40.0, 900.0)


def constant(half_lives):
    """Make every head's step 1, whatever is read, and its rate that of a half-life."""

    def write(model):
        mixer = mixer_of(model)
        mixer.in_proj.weight[-len(half_lives) :] = 0.0
        mixer.dynamics.dt_bias.fill_(math.log(math.e - 1))  # softplus of it is 1
        mixer.dynamics.A_log.copy_((math.log(2) / torch.tensor(half_lives)).log())

    return write


def test_a_mamba2_head_with_a_set_half_life():
    small = spec("M-", n_meta_tokens=2)
    found = look(INSTRUMENT, model_of(small, constant(HALF_LIVES)), random_inputs(small))
    rows = found.tables["heads"]
    assert [row["half_life"] for row in rows] == pytest.approx(HALF_LIVES, rel=1e-4)
    assert [row["low"] for row in rows] == pytest.approx(HALF_LIVES, rel=1e-4)
    assert [row["high"] for row in rows] == pytest.approx(HALF_LIVES, rel=1e-4)
    assert all(row["half_life_stderr"] == pytest.approx(0, abs=1e-3) for row in rows)
    assert found.metrics["longest_half_life"]["value"] == pytest.approx(900, rel=1e-4)
    assert found.metrics["half_life"]["value"] == pytest.approx(
        math.exp(np.log(HALF_LIVES).mean()), rel=1e-4
    )
    assert found.tables["layers"][0]["longest"] == pytest.approx(900, rel=1e-4)
    assert {row["place"] for row in rows} == {"0"}


def test_the_decay_is_the_geometric_mean_over_tokens():
    """A head whose step is 1 after one token and 3 after another keeps as if it were always 2."""
    small = spec("M", mixers={"M": {"n_heads": 1}})

    def write(model):
        constant((10.0,))(model)
        model.embedding.weight[:] = 0.0
        model.embedding.weight[0, 0], model.embedding.weight[1, 1] = 1.0, 1.0
        model.blocks[0].norm.weight.fill_(0.25)  # of width 16: entries are 1 behind the norm
        softplus_inverse = [math.log(math.expm1(x)) for x in (1.0, 3.0)]
        row = mixer_of(model).in_proj.weight[-1]
        row[0], row[1] = softplus_inverse
        mixer_of(model).dynamics.dt_bias.fill_(0.0)

    inputs = inputs_of([[0, 1, 0, 1], [1, 0, 1, 0]])
    found = look(INSTRUMENT, model_of(small, write), inputs)
    (row,) = found.tables["heads"]
    assert row["half_life"] == pytest.approx(10.0 / 2, rel=1e-3)
    assert row["low"] == pytest.approx(10.0 / 3, rel=1e-3)
    assert row["high"] == pytest.approx(10.0 / 1, rel=1e-3)


def test_the_error_is_that_of_documents():
    """Documents of one token kind have half-lives 10 and 10 / 3: mean step 2, its error 1."""
    small = spec("M", mixers={"M": {"n_heads": 1}})

    def write(model):
        constant((10.0,))(model)
        model.embedding.weight[:] = 0.0
        model.embedding.weight[0, 0], model.embedding.weight[1, 1] = 1.0, 1.0
        model.blocks[0].norm.weight.fill_(0.25)
        row = mixer_of(model).in_proj.weight[-1]
        row[0], row[1] = (math.log(math.expm1(x)) for x in (1.0, 3.0))
        mixer_of(model).dynamics.dt_bias.fill_(0.0)

    found = look(INSTRUMENT, model_of(small, write), inputs_of([[0, 0], [1, 1]]))
    (row,) = found.tables["heads"]
    assert row["half_life"] == pytest.approx(5.0, rel=1e-3)
    assert row["half_life_stderr"] == pytest.approx((10 - 10 / 3) / 2, rel=1e-3)


@pytest.mark.parametrize("kind", ["mamba2", "gated_deltanet"])
def test_meta_tokens_are_no_tokens_of_the_document(kind):
    """Meta tokens have steps and writes of their own, which are not counted."""
    fields = {"n_heads": 1} if kind == "mamba2" else {**DELTA, "kind": kind}
    small = spec("M", mixers={"M": fields}, n_meta_tokens=5)

    def write(model):
        model.embedding.weight[:] = 0.0
        model.embedding.weight[:, 0] = 1.0
        model.meta.weight.zero_()
        model.meta.weight[:, 1] = 1.0
        model.blocks[0].norm.weight.fill_(0.25)
        mixer = mixer_of(model)
        mixer.in_proj.weight[:, 0] = 0.0
        mixer.in_proj.weight[:, 1] = 3.0  # whatever it is: another step and strength than at 0
        mixer.dynamics.dt_bias.fill_(math.log(math.e - 1))
        mixer.dynamics.A_log.fill_(math.log(math.log(2) / 10))

    (row, *_) = look(INSTRUMENT, model_of(small, write), random_inputs(small)).tables["heads"]
    assert row["half_life"] == pytest.approx(10.0, rel=1e-3)
    assert row["low"] == pytest.approx(10.0, rel=1e-3)
    if kind == "gated_deltanet":
        assert row["beta"] == pytest.approx(0.5, rel=1e-3)


def test_channels_of_mamba1_are_summarised():
    """Rates 1, 2, 4 in the columns of every channel: the half-lives are 8, 4 and 2."""
    small = spec("S")

    def write(model):
        mixer = mixer_of(model)
        mixer.dt_proj.weight.fill_(0.0)
        mixer.dynamics.dt_bias.fill_(math.log(math.expm1(math.log(2) / 8)))
        mixer.dynamics.A_log.copy_(torch.tensor([1.0, 2.0, 4.0]).log().expand(10, 3))

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    (row,) = found.tables["heads"]
    assert (row["over"], row["n_cells"]) == ("cells", 30)
    assert row["half_life"] == pytest.approx(4, rel=1e-4)
    assert row["low"] == pytest.approx(2, rel=1e-4)
    assert row["high"] == pytest.approx(8, rel=1e-4)


@pytest.mark.parametrize("kind", ["gated_deltanet", "kda"])
def test_a_delta_rule_that_turns_around_what_it_finds(kind):
    """beta is 1.5 in every head: half as much again is taken off, and the sign is turned."""
    fields = {**DELTA, "kind": kind, "allow_negative_eigenvalues": True}
    small = spec("G", mixers={"G": fields})

    def write(model):
        mixer = mixer_of(model)
        mixer.strength = lambda b: torch.full_like(b, 1.5)
        mixer.dynamics.log_decay = lambda dt: torch.full(
            (*dt.shape[:2], 2, dt.shape[2] // 2), math.log(0.5) / 20
        )

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    assert len(found.tables["heads"]) == 2
    for row in found.tables["heads"]:
        assert row["half_life"] == pytest.approx(20, rel=1e-4)
        assert row["n_cells"] == (1 if kind == "gated_deltanet" else 4)
        assert row["beta"] == pytest.approx(1.5)
        assert row["eigenvalue"] == pytest.approx(-0.5 * 0.5 ** (1 / 20), rel=1e-4)
        assert row["negative"] == 1.0


def test_it_does_not_apply_without_a_recurrence():
    assert INSTRUMENT.why_not(spec("*-").sublayers) == "no layer has a state that decays"
    assert INSTRUMENT.why_not(spec("{M*}-").sublayers) is None
