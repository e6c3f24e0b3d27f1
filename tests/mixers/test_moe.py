"""The module against its formula, its initial weights, and what it tells."""

import math

import pytest
import torch
import torch.nn.functional as F

from braidlm.arch.cost import cost
from braidlm.arch.mixers import MoEConfig
from braidlm.mixers import MoE
from braidlm.model import HybridLM
from braidlm.segments import Segments
from tests.specs import SINGLE, WHOLE, spec

FULL = MoEConfig(
    n_experts=6,
    top_k=3,
    d_ff=7,
    d_shared=4,
    shared_gate=True,
    d_latent=3,
    router="sigmoid",
    balance="none",
    routed_scale=1.5,
)


def build(config: MoEConfig, d_model: int = 5) -> MoE:
    torch.manual_seed(0)
    mixer = MoE(config, d_model).double()
    mixer.reset_parameters(0.5)
    return mixer


def test_it_is_its_formula_token_by_token():
    mixer = build(FULL)
    w = dict(mixer.named_parameters())
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    y, state = mixer(x, None, None, True)
    assert state is None
    for row, found in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
        scores = (w["router.weight"] @ row).sigmoid()
        best = scores.topk(3).indices
        latent = w["latent_in.weight"] @ row
        total = torch.zeros(3, dtype=torch.float64)
        for e in best:
            gate, up = (w["experts_in"][e] @ latent).split(7)
            out = w["experts_out"][e] @ (F.silu(gate) * up)
            total = total + 1.5 * scores[e] / scores[best].sum() * out
        gate, up = (w["shared.mlp.in_proj.weight"] @ row).split(4)
        shared = w["shared.out_proj.weight"] @ (F.silu(gate) * up)
        shared = (w["shared.gate.weight"] @ row).sigmoid() * shared
        torch.testing.assert_close(found, w["latent_out.weight"] @ total + shared)


def test_what_leads_to_the_residual_stream_starts_smaller_where_depth_asks_for_it():
    torch.manual_seed(0)
    wide = MoE(MoEConfig(d_ff=64, d_shared=64, aux_coef=0.0, aux_over="row"), 64)
    wide.reset_parameters(0.3, 0.1)
    spread = {n: float(p.detach().std()) for n, p in wide.named_parameters()}
    small = {"experts_out", "shared.out_proj.weight"}
    assert all(spread[n] == pytest.approx(0.1 if n in small else 0.3, rel=0.1) for n in spread)
    narrow = MoE(MoEConfig(d_ff=64, d_latent=32, balance="none"), 64)
    narrow.reset_parameters(0.3, 0.1)
    assert float(narrow.experts_out.detach().std()) == pytest.approx(0.3, rel=0.1)
    assert narrow.latent_out is not None
    assert float(narrow.latent_out.weight.detach().std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("name", [name for name in SINGLE if "expert" in name])
def test_padding_counts_in_no_statistic(name):
    """What routers tell of a padded batch is what they tell of its real tokens."""
    torch.manual_seed(0)
    model = HybridLM(SINGLE[name]).double()
    tokens = torch.randint(31, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :4] = False
    padded = [tokens.where(mask, filler) for filler in (0, 30)]
    told = [model(t, Segments.from_mask(mask), with_aux=True).aux for t in padded]
    assert told[0].keys() == told[1].keys()
    for key, value in told[0].items():
        torch.testing.assert_close(told[1][key], value, rtol=1e-12, atol=0)
    loads = [value for key, value in told[0].items() if key.endswith(".load")]
    (top_k,) = {x.mixer.top_k for x in SINGLE[name].mixers if isinstance(x.mixer, MoEConfig)}
    assert [int(load.sum()) for load in loads] == [14 * top_k] * len(loads)
    model(padded[0], Segments.from_mask(mask)).hidden.sum().backward()


def test_only_who_asks_is_told_and_every_layer_tells():
    model = HybridLM(WHOLE["hybrid of experts"])
    tokens = torch.randint(31, (2, 9))
    assert model(tokens).aux == {}
    told = model(tokens, with_aux=True).aux
    layers = [i for i, s in enumerate(model.spec.sublayers) if s.symbol == "E"]
    assert layers == [1, 3]
    assert set(told) == {f"blocks.{i}.{what}" for i in layers for what in ("load", "router_loss")}
    assert all(int(told[f"blocks.{i}.load"].sum()) == 2 * 9 * 2 for i in layers)


def test_the_loss_of_the_router_is_its_coefficients_times_its_losses():
    def router_loss(**fields):
        torch.manual_seed(3)
        model = HybridLM(spec("E", mixers={"E": fields})).double()
        tokens = torch.arange(18).view(2, 9)
        return float(model(tokens, with_aux=True).aux["blocks.0.router_loss"].detach())

    balance = router_loss(aux_coef=1.0)
    assert balance >= 2.0 * 0.9  # top_k = 2 where it is even
    assert router_loss(aux_coef=0.25) == pytest.approx(balance / 4)
    z = router_loss(aux_coef=0.0, z_coef=1.0)
    assert router_loss(aux_coef=0.5, z_coef=0.1) == pytest.approx(balance / 2 + z / 10)
    assert router_loss(aux_coef=1.0, aux_over="row") != pytest.approx(balance, rel=1e-6)


def test_the_bias_moves_one_step_towards_an_even_load():
    mixer = build(MoEConfig(n_experts=4, d_ff=4, balance="bias", bias_rate=0.125))
    bias = mixer.router.bias
    assert bias is not None
    mixer.router.balance(torch.tensor([6, 2, 4, 4]))
    assert bias.tolist() == [-0.125, 0.125, 0.0, 0.0]
    mixer.router.balance(torch.tensor([0, 0, 0, 16]))
    assert bias.tolist() == [0.0, 0.25, 0.125, -0.125]
    assert "router.bias" in mixer.state_dict()


def test_telemetry_tells_how_even_and_how_sure():
    mixer = build(MoEConfig(n_experts=4, top_k=2, d_ff=4, balance="bias", bias_rate=0.5))
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        mixer.router.weight.zero_()
        assert mixer.router.bias is not None
        mixer.router.bias.copy_(torch.tensor([2.0, 1.0, 0.0, -1.0]))
        told = mixer.telemetry(x, None)
    assert told["load_max"] == 2.0
    assert told["load_min"] == 0.0
    assert float(told["router_entropy"]) == pytest.approx(math.log(4))
    assert told["bias_range"] == 3.0


def test_a_token_meets_as_many_shared_experts_as_are_counted():
    """Found by gradients of one token at a time: an expert that was not chosen has none."""
    fields = {"n_experts": 9, "top_k": 2, "d_ff": 6, "balance": "none", "shared": True}
    declared = spec("E-EE", mixers={"E": fields})
    torch.manual_seed(0)
    model, c = HybridLM(declared).double(), cost(declared, 1)
    moe = next(m for m in model.modules() if isinstance(m, MoE))
    with torch.no_grad():
        moe.experts_out.mul_(30)  # so that the stream turns far, and routers change their minds
    expert = moe.experts_in[0].numel() + moe.experts_out[0].numel()
    most = (c.n_active_params - (c.n_params - 9 * expert)) // expert
    met = []
    for token in range(declared.vocab_size):
        model.zero_grad()
        model(torch.tensor([[token]])).hidden.square().sum().backward()
        grad = moe.experts_in.grad
        assert grad is not None
        met.append(int((grad.flatten(1).abs().amax(1) > 0).sum()))
    assert max(met) == most == 6
    assert min(met) >= 2
