"""Branches that say a known share of the output, everywhere or on some tokens only."""

import math

import numpy as np
import pytest
import torch

from braidlm.analysis.branch_share import INSTRUMENT
from braidlm.data.tokenizer import ByteTokenizer
from tests.specs import ATTENTION, spec

from .known import inputs_of, look, model_of, random_inputs

BYTES = ByteTokenizer()
TWINS = {"W": {**ATTENTION, "window": 1}, "V": {"kind": "attention", **ATTENTION, "window": 1}}
"""Two branches that see nothing but the token itself."""


def alike(model):
    """Both branches, and both projections, have the same weights."""
    mix = model.blocks[0].mix
    mix.branches[1].load_state_dict(mix.branches[0].state_dict())
    projections = mix.combine.out_projs
    projections[1].load_state_dict(projections[0].state_dict())
    return mix


def rows_of(found, table="branches", tokens="all"):
    return [row for row in found.tables[table] if row["tokens"] == tokens]


@pytest.mark.parametrize(("combine", "cosine"), [("add", 1.0), ("subtract", -1.0), ("mean", 1.0)])
def test_one_branch_says_three_times_as_much(combine, cosine):
    small = spec("{WV}-", fusion={"combine": combine, "norm": "none"}, mixers=TWINS)

    def write(model):
        alike(model).combine.out_projs[0].weight.mul_(3.0)

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    first, second = rows_of(found)
    assert (first["share"], second["share"]) == pytest.approx((0.75, 0.25), rel=1e-5)
    assert first["rms"] == pytest.approx(second["rms"], rel=1e-5)
    assert (first["place"], second["place"]) == ("0.0", "0.1")
    assert first["share_stderr"] == pytest.approx(0, abs=1e-6)
    (pair,) = found.tables["pairs"]
    assert pair["cosine"] == pytest.approx(cosine, rel=1e-5)
    assert found.metrics["first_share"]["value"] == pytest.approx(0.75, rel=1e-5)
    assert found.tables["contrasts"] == []  # without a tokenizer there are no kinds


def test_rms_is_that_behind_norm_and_scale():
    fusion = {"combine": "add", "norm": "rms", "scale": "learned"}
    small = spec("{WV}-", fusion=fusion, mixers=TWINS, n_meta_tokens=2)

    def write(model):
        mix = alike(model)
        for norm, scale, size in zip(mix.norms, mix.scales, (2.0, 5.0), strict=True):
            norm.weight.fill_(1.0)
            scale.fill_(size)

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    assert [row["rms"] for row in rows_of(found)] == pytest.approx([2.0, 5.0], rel=1e-3)
    assert [row["share"] for row in rows_of(found)] == pytest.approx([2 / 7, 5 / 7], rel=1e-3)


def test_a_gate_that_opens_on_numbers():
    """A digit lets 0.9 of the first branch through, everything else 0.5."""
    fusion = {"combine": "gate", "norm": "none", "gate": "token", "projection": "separate"}
    small = spec("{WV}-", fusion=fusion, mixers=TWINS).model_copy(update={"vocab_size": 259})

    def write(model):
        mix = alike(model)
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[48:58] = 0.0
        model.embedding.weight[48:58, 0] = 1.0
        model.blocks[0].norm.weight.fill_(1.0)  # the digits' channel is 4 behind the norm
        mix.combine.gate_proj.weight.zero_()
        mix.combine.gate_proj.bias.zero_()
        mix.combine.gate_proj.weight[0, 0] = math.log(9.0) / 4.0

    texts = ["It is 12. And so on", "telephone 7 and 8", "no digit at all here"]
    documents = [torch.tensor([256, *BYTES.encode(text).tolist()]) for text in texts]
    found = look(INSTRUMENT, model_of(small, write), inputs_of(documents, BYTES))
    numbers, others = rows_of(found, tokens="number"), rows_of(found, tokens="other")
    assert [row["share"] for row in numbers] == pytest.approx([0.9, 0.1], rel=1e-3)
    assert [row["gate"] for row in numbers] == pytest.approx([0.9, 0.1], rel=1e-3)
    assert [row["gate"] for row in others] == pytest.approx([0.5, 0.5], rel=1e-5)
    assert (numbers[0]["n"], numbers[0]["n_tokens"], others[0]["n"]) == (2, 4, 3)
    first, second = rows_of(found, "contrasts", "number")
    assert first["contrast"] == pytest.approx(0.4, rel=1e-3)
    assert second["contrast"] == pytest.approx(-0.4, rel=1e-3)
    assert (first["symbol"], first["layers"], first["n"]) == ("{WV}", [0], 2)
    assert {row["tokens"] for row in found.tables["contrasts"]} == {
        *("start", "number", "continuation", "other")
    }


def test_the_streams_of_a_merge_attention():
    merge = {"combine": "merge_attention", "norm": "none"}
    small = spec("{M*}-", fusion=merge, mixers={"M": {"n_heads": 4}, "*": {"v_head_dim": 4}})

    def write(model):
        model.blocks[0].mix.combine.q_proj.weight.zero_()

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    assert [row["weight"] for row in rows_of(found)] == pytest.approx([0.5, 0.5], rel=1e-5)
    (row,) = rows_of(found, "fusions")
    t = np.arange(40)
    assert row["self"] == pytest.approx((1 / (t + 1)).mean(), rel=1e-5)
    assert row["reach"] == pytest.approx((t / 2).mean(), rel=1e-5)


def test_a_merge_attention_asks_the_branch_that_has_keys():
    """Keys of the first branch fit the query of equal tokens; the second branch says nothing."""
    merge = {"combine": "merge_attention", "norm": "none"}
    small = spec("{WV}-", fusion=merge, mixers=TWINS)

    def write(model):
        model.embedding.weight[:] = model.embedding.weight[:1].clone()
        mix = model.blocks[0].mix
        mix.branches[1].in_proj.weight.zero_()
        k = mix.combine.kv_proj.weight[:8].unflatten(0, (2, 4))  # two heads, asked by two each
        mix.combine.q_proj.weight.copy_(1e3 * k.repeat_interleave(2, dim=0).flatten(0, 1))

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    assert [row["weight"] for row in rows_of(found)] == pytest.approx([1, 0], abs=1e-3)


def test_a_cross_attention_that_looks_at_all_and_meta_tokens_alike():
    cross = {"combine": "cross_attention", "norm": "none"}
    small = spec("{M*}-", fusion=cross, n_meta_tokens=3)

    def write(model):
        model.blocks[0].mix.combine.q_proj.weight.zero_()

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    (row,) = rows_of(found, "fusions")
    t = np.arange(40)
    assert (row["place"], row["kind"], row["n"]) == ("0.fusion", "fusion", 3)
    assert row["self"] == pytest.approx((1 / (t + 4)).mean(), rel=1e-5)
    assert row["reach"] == pytest.approx((t / 2).mean(), rel=1e-5)


def test_a_branch_that_says_nothing():
    small = spec("{WV}-{WV}", fusion={"combine": "add", "norm": "none"}, mixers=TWINS)

    def write(model):
        model.blocks[0].mix.combine.out_projs[1].weight.zero_()
        for projection in model.blocks[2].mix.combine.out_projs:
            projection.weight.zero_()

    found = look(INSTRUMENT, model_of(small, write), random_inputs(small))
    assert [row["share"] for row in rows_of(found)] == pytest.approx([1.0, 0.0, 0.5, 0.5])


def test_it_does_not_apply_without_branches():
    assert INSTRUMENT.why_not(spec("M*-").sublayers) == "no layer has parallel branches"
    assert INSTRUMENT.why_not(spec("{M*}-").sublayers) is None
