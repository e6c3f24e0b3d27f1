"""The declaration of experts: its defaults, what it refuses, and its costs by hand."""

import random

import pytest

from braidlm.arch import Spec
from braidlm.arch.cost import cost, executed_matmul_flops, sublayer_costs
from braidlm.arch.mixers import MoEConfig
from braidlm.arch.reads import batch_reads, has_experts
from braidlm.arch.widen import widen
from braidlm.errors import InputError


def declare(fields, pattern="E", d_model=16):
    return Spec.of(
        {"pattern": pattern, "d_model": d_model, "vocab_size": 100, "mixers": {"E": fields}}
    )


def mixer(fields, d_model=16) -> MoEConfig:
    found = declare(fields, d_model=d_model).mixers[0].mixer
    assert isinstance(found, MoEConfig)
    return found


def test_by_default_the_chosen_experts_are_as_wide_as_the_mlp():
    experts = mixer({}, 512)
    assert (experts.n_experts, experts.top_k, experts.d_ff) == (8, 2, 1408 // 2)
    assert (experts.balance, experts.aux_coef, experts.aux_over) == ("aux_loss", 0.01, "batch")
    assert mixer({"top_k": 4, "gated": False}, 512).d_ff == 4 * 512 // 4
    assert mixer({"top_k": 3}, 512).d_ff == 472  # 1408 / 3, up to a multiple of 8
    bias = mixer({"balance": "bias"})
    assert (bias.bias_rate, bias.aux_coef, bias.aux_over) == (0.001, None, None)
    rows = cost(Spec.parse("-E", d_model=512), 64).sublayers
    assert rows[1].n_active_params - rows[0].n_params == 8 * 512  # the router


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"top_k": 9}, "mixers.E: top_k = 9: must be at most n_experts = 8"),
        ({"top_k": 0}, "mixers.E.top_k = 0: input should be greater than 0"),
        ({"top_k": "two"}, "mixers.E.top_k = 'two': input should be a valid integer"),
        ({"n_experts": 0}, "mixers.E.n_experts = 0: input should be greater than 0"),
        ({"d_ff": 0}, "mixers.E.d_ff = 0: input should be greater than 0"),
        ({"d_shared": 0}, "mixers.E.d_shared = 0: input should be greater than 0"),
        ({"d_latent": -1}, "mixers.E.d_latent = -1: input should be greater than 0"),
        ({"activation": "tanh"}, "mixers.E.activation = 'tanh': input should be 'silu', 'gelu'"),
        ({"gated": 1}, "mixers.E.gated = 1: input should be a valid boolean"),
        ({"router": "noisy"}, "mixers.E.router = 'noisy': input should be 'softmax' or 'sigmoid'"),
        ({"routed_scale": 0.0}, "mixers.E.routed_scale = 0.0: input should be greater than 0"),
        ({"n_groups": 3}, "mixers.E: n_groups = 3: must divide n_experts = 8"),
        ({"topk_group": 2}, "mixers.E: topk_group = 2: must be at most n_groups = 1"),
        (
            {"n_groups": 4, "topk_group": 1, "top_k": 3},
            "mixers.E: top_k = 3: must be at most 2, the experts of topk_group = 1 groups",
        ),
        (
            {"router": "sigmoid", "topk_first": True},
            "mixers.E: topk_first = true: belongs only to router = 'softmax'",
        ),
        (
            {"topk_first": True, "norm_topk": False},
            "mixers.E: norm_topk = false: with topk_first = true the chosen weights always sum",
        ),
        (
            {"top_k": 1},
            "mixers.E: norm_topk = true: with top_k = 1 every weight is one, and the router",
        ),
        ({"shared_gate": True}, "mixers.E: shared_gate = true: needs a shared expert, d_shared"),
        ({"balance": "loss"}, "mixers.E.balance = 'loss': input should be 'aux_loss', 'bias'"),
        (
            {"balance": "bias", "aux_coef": 0.1},
            "mixers.E: aux_coef = 0.1: belongs only to balance = 'aux_loss'",
        ),
        (
            {"balance": "none", "aux_over": "row"},
            "mixers.E: aux_over = 'row': belongs only to balance = 'aux_loss'",
        ),
        ({"bias_rate": 0.1}, "mixers.E: bias_rate = 0.1: belongs only to balance = 'bias'"),
        ({"aux_coef": -1.0}, "mixers.E.aux_coef = -1.0: input should be greater than or equal"),
        ({"capacity": 1.25}, "mixers.E: unknown field 'capacity'"),
    ],
)
def test_what_cannot_be_is_one_sentence(fields, words):
    with pytest.raises(InputError) as caught:
        declare(fields)
    assert str(caught.value).startswith(words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_experts_are_no_branch():
    words = r"sublayer 1 \(\{ME\}\): branch 'moe, 2 of 8 .*': has output projections of its own"
    with pytest.raises(InputError, match=words):
        Spec.parse("M{ME}")


def test_a_stored_declaration_is_read_again():
    for fields in ({}, {"balance": "bias", "d_shared": 8}, {"balance": "none", "d_latent": 4}):
        spec = declare(fields)
        assert Spec.of(spec.model_dump(mode="json")) == spec
        assert Spec.of(spec.model_dump(mode="json", exclude_none=True)) == spec


def test_parameters_and_flops_by_hand():
    fields = {"n_experts": 6, "top_k": 2, "d_ff": 10, "d_shared": 12, "shared_gate": True}
    (row,) = sublayer_costs(declare(fields), 7)
    expert = 3 * 16 * 10
    common = 6 * 16 + 3 * 16 * 12 + 16
    assert row.n_params == common + 6 * expert + 16
    assert row.n_active_params == common + 2 * expert + 16
    assert row.model_flops == 7 * 2 * (common + 2 * expert)
    assert row.decode_flops == 2 * (common + 2 * expert)
    assert (row.kv_bytes, row.state_bytes) == (0, 0)


@pytest.mark.parametrize(("pattern", "n_chosen"), [("E", 2), ("E-E", 4), ("EEE", 6), ("E4", 7)])
def test_a_shared_router_chooses_at_each_use(pattern, n_chosen):
    """Two of seven each time: a token's experts are as many as it can meet, each counted once."""
    fields = {"n_experts": 7, "top_k": 2, "d_ff": 10, "d_shared": 12}
    c = cost(declare({**fields, "shared": True}, pattern), 5)
    rows = [row for row in c.sublayers if row.symbol == "E"]
    expert, common = 3 * 16 * 10, 7 * 16 + 3 * 16 * 12 + 16
    assert rows[0].n_params == common + 7 * expert
    assert rows[0].n_active_params == common + n_chosen * expert
    assert c.n_params - c.n_active_params == (7 - n_chosen) * expert
    for row in rows:
        assert row.n_read_params == common + 2 * expert
        assert row.model_flops == 5 * 2 * (common - 16 + 2 * expert)
        if row is not rows[0]:
            assert row.n_params == row.n_active_params == 0


def test_a_latent_space_narrows_the_experts_alone():
    fields = {"d_ff": 10, "d_shared": 12, "d_latent": 4, "gated": False}
    (row,) = sublayer_costs(declare(fields), 1)
    common = 8 * 16 + 2 * 16 * 12 + 2 * 16 * 4
    assert row.n_params == common + 8 * 2 * 4 * 10 + 16
    assert row.model_flops == 2 * (common + 2 * 2 * 4 * 10)


def test_executed_products_are_the_canonical_ones():
    spec = declare({"d_ff": 10})
    head = 2 * 3 * 5 * 16 * 100
    (row,) = sublayer_costs(spec, 5)
    assert executed_matmul_flops(spec, 3, 5) == head + 3 * row.model_flops


def test_the_expected_number_of_distinct_experts():
    experts = mixer({"n_experts": 8, "top_k": 2})
    assert experts.expected_experts(1) == pytest.approx(2.0)
    assert experts.expected_experts(2) == pytest.approx(8 * (1 - 0.75**2))
    assert experts.expected_experts(10_000) == pytest.approx(8.0)
    assert mixer({"n_experts": 4, "top_k": 4}).expected_experts(1) == 4.0


def test_every_width_grows_with_the_model():
    wide = widen(declare({"d_ff": 10, "d_shared": 12, "d_latent": 4}), 32)
    found = wide.mixers[0].mixer
    assert isinstance(found, MoEConfig)
    assert (found.d_ff, found.d_shared, found.d_latent) == (20, 24, 8)
    assert (found.n_experts, found.top_k) == (8, 2)


def test_a_batch_reads_each_expert_once_however_many_use_it():
    spec = declare({"n_experts": 8, "top_k": 2, "d_ff": 10}, pattern="EE-")
    one = batch_reads(spec, 1)
    assert one.distinct_experts == {"E": pytest.approx(2.0)}
    assert one.weight_bytes == cost(spec, 1).decode_weight_bytes
    two = batch_reads(spec, 2)
    more = 8 * (1 - 0.75**2) - 2
    assert two.weight_bytes == one.weight_bytes + 2 * round(2 * more * 3 * 16 * 10)
    everything = batch_reads(spec, 10_000)
    assert everything.weight_bytes == 2 * cost(spec, 1).n_params
    assert has_experts(spec)
    assert not has_experts(Spec.parse("M-"))
    with pytest.raises(InputError, match="batch = 0: must be at least 1 row"):
        batch_reads(spec, 0)


def test_untied_every_row_reads_its_own_line_of_the_embedding():
    spec = Spec.parse("E", d_model=16, vocab_size=100)
    untied = Spec.of({**spec.model_dump(), "tie_embeddings": False})
    per_row = batch_reads(untied, 5).weight_bytes - batch_reads(spec, 5).weight_bytes
    assert per_row == 2 * 5 * 16


def test_the_expected_number_is_that_of_even_choices():
    """Against a draw: 4000 batches of 5 tokens, 2 of 8 experts each."""
    draw = random.Random(0)
    seen = [len({e for _ in range(5) for e in draw.sample(range(8), 2)}) for _ in range(4000)]
    expected = mixer({"n_experts": 8, "top_k": 2}).expected_experts(5)
    assert sum(seen) / 4000 == pytest.approx(expected, rel=0.01)
