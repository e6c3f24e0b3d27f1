"""Heads that look at a known place: a fixed distance back, everywhere alike, or at a sink."""

import math

import numpy as np
import pytest
import torch

from braidlm.analysis.attention_span import INSTRUMENT, N_QUERIES
from tests.specs import ATTENTION, MLA, spec

from .known import look, model_of, random_inputs

N = 40


def heads(found, place="0"):
    return [row for row in found.tables["heads"] if row["place"] == place]


def even(model):
    """Every query finds every key alike."""
    for block in model.blocks:
        block.mix.mixer.in_proj.weight.zero_()


def shifted_rotation(distance, sharpness):
    """Queries turned back by `distance` tokens: their best key is exactly that far away."""

    def write(model):
        model.embedding.weight[:] = 0.0
        model.embedding.weight[:, 0] = 1.0  # every token is the same: only positions differ
        mixer = model.blocks[0].mix.mixer
        mixer.in_proj.weight.zero_()
        mixer.inv_freq.copy_(torch.tensor([0.3, 0.05]))
        q, k, _ = mixer.in_proj.weight.split(mixer.widths)
        for head in q.unflatten(0, (mixer.n_heads, 4)):
            angles = -distance * mixer.inv_freq
            head[:, 0] = sharpness * torch.cat((angles.cos(), angles.sin()))
        for head in k.unflatten(0, (mixer.n_kv_heads, 4)):
            head[:2, 0] = 1.0

    return write


@pytest.mark.parametrize("distance", [0, 7])
def test_a_head_that_looks_exactly_so_far_back(distance):
    small = spec("*")
    model = model_of(small, shifted_rotation(distance, 2000.0))
    found = look(INSTRUMENT, model, random_inputs(small, length=N))
    for row in heads(found):
        # the first tokens have no key so far back, and look at the farthest: the first
        expected = np.minimum(np.arange(N), distance).mean()
        assert row["distance"] == pytest.approx(expected, abs=0.02)
        assert row["span"] == pytest.approx(expected + 1, abs=0.02)
        assert row["entropy"] == pytest.approx(0, abs=0.05)
        assert row["distance_stderr"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "small",
    [
        spec("*", mixers={"*": {"position": "none"}}),
        spec("*", mixers={"*": {"position": "none", "n_kv_heads": 1}}, n_meta_tokens=0),
        spec("+", mixers={"+": {**MLA, "position": "none"}}),
    ],
    ids=["grouped", "multi-query", "latent"],
)
def test_a_head_that_looks_everywhere_alike(small):
    found = look(INSTRUMENT, model_of(small, even), random_inputs(small, length=N))
    t = np.arange(N)
    for row in heads(found):
        assert row["distance"] == pytest.approx((t / 2).mean(), rel=1e-5)
        assert row["entropy"] == pytest.approx(np.log(t + 1).mean(), rel=1e-5)
        assert row["span"] == pytest.approx(np.ceil(0.9 * (t + 1) - 1e-9).mean(), rel=1e-5)
        assert row["first"] == pytest.approx((1 / (t + 1)).mean(), rel=1e-5)
        assert row["four"] == pytest.approx((np.minimum(t + 1, 4) / (t + 1)).mean(), rel=1e-5)
        weight = ((t >= 4) & (t <= t[:, None])) / (t[:, None] + 1)
        back = (weight * (t[:, None] - t)).sum() / weight.sum()
        assert row["rest"] == pytest.approx(back, rel=1e-5)
        assert row["learned"] == row["meta"] == row["other"] == 0
    assert set(found.metrics) == {"distance", "rest", "span", "entropy", "first", "four"}


def test_a_window_with_sinks_and_a_learned_sink():
    fields = {**ATTENTION, "window": 3, "n_sinks": 1, "sink_logit": True, "position": "none"}
    small = spec("W", mixers={"W": fields})

    def write(model):
        even(model)
        model.blocks[0].mix.mixer.sink_logits.fill_(math.log(4.0))  # as much as four places

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small, length=N))
    t = np.arange(N)
    n_seen = np.minimum(t + 1, 4)
    for row in heads(found):
        assert row["learned"] == pytest.approx((4 / (n_seen + 4)).mean(), rel=1e-5)
        assert row["first"] == pytest.approx((1 / (n_seen + 4)).mean(), rel=1e-5)
        assert row["span"] == pytest.approx((t + 1).mean(), rel=1e-5)  # 90 % needs the sink
        p, sink = 1 / (n_seen + 4), 4 / (n_seen + 4)
        entropy = -(n_seen * p * np.log(p) + sink * np.log(sink)).mean()
        assert row["entropy"] == pytest.approx(entropy, rel=1e-5)


def test_meta_tokens_are_places_that_are_no_tokens():
    small = spec("*", mixers={"*": {"position": "none"}}, n_meta_tokens=5)
    found = look(INSTRUMENT, model_of(small, even), random_inputs(small, length=N))
    t = np.arange(N)
    for row in heads(found):
        assert row["meta"] == pytest.approx((5 / (t + 6)).mean(), rel=1e-5)
        assert row["first"] == pytest.approx((1 / (t + 6)).mean(), rel=1e-5)
        seen = (t + 1) / (t + 6)
        assert row["distance"] == pytest.approx((seen * t / 2).sum() / seen.sum(), rel=1e-5)


def test_the_two_streams_of_a_merge():
    merge = {"combine": "merge_attention", "norm": "none"}
    small = spec("{M*}-", fusion=merge, mixers={"M": {"n_heads": 4}, "*": {"v_head_dim": 4}})

    def write(model):
        model.blocks[0].mix.combine.q_proj.weight.zero_()

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small, length=N))
    for row in heads(found, "0.fusion"):
        assert row["other"] == pytest.approx(0.5, rel=1e-5)
        assert row["distance"] == pytest.approx((np.arange(N) / 2).mean(), rel=1e-5)
        assert row["first"] == pytest.approx((1 / np.arange(1, N + 1)).mean(), rel=1e-5)
    assert {row["place"] for row in found.tables["heads"]} == {"0.1", "0.fusion"}


def test_both_streams_of_a_merge_have_the_meta_tokens_under_a_window():
    merge = {"combine": "merge_attention", "norm": "none", "cross": {"window": 3}}
    small = spec("{M*}-", fusion=merge, mixers={"M": {"n_heads": 4}}, n_meta_tokens=2)

    def write(model):
        model.blocks[0].mix.combine.q_proj.weight.zero_()

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small, length=N))
    n_own = np.minimum(np.arange(N) + 1, 3)
    for row in heads(found, "0.fusion"):
        assert row["meta"] == pytest.approx((2 / (n_own + 2)).mean(), rel=1e-5)


def test_long_documents_are_asked_at_some_tokens():
    length = 3 * N_QUERIES
    small = spec("*", mixers={"*": {"position": "none", "n_heads": 1, "n_kv_heads": 1}})
    found = look(INSTRUMENT, model_of(small, even), random_inputs(small, 1, length))
    assert heads(found)[0]["distance"] == pytest.approx(length / 4, rel=0.01)
    assert heads(found)[0]["distance_stderr"] is None


def test_it_does_not_apply_without_attention():
    assert INSTRUMENT.why_not(spec("M-").sublayers) == "no layer attends"
    assert INSTRUMENT.why_not(spec("M+").sublayers) is None
