"""The mixture of experts against five families of transformers: outputs, every gradient, the loss.

Only their blocks of experts are built, with random weights, and given random hidden states.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from braidlm import mixers
from braidlm.arch import Spec
from braidlm.mixers import MoE
from braidlm.ops.routing import balance_loss, loads, route
from tests.judges.judging import Widened, distance, enliven, gradients, probe, relative

transformers = pytest.importorskip("transformers", minversion="5.15.1")

EXACT = 1e-12
"""Largest difference allowed when both compute in fp64; measured 9e-16."""
WIDTH, LENGTH = 20, 29
SHARED = {
    "shared.mlp.in_proj.weight": ("gate_proj.weight", "up_proj.weight"),
    "shared.out_proj.weight": ("down_proj.weight",),
}
STACKS = {"experts_in": ("experts.gate_up_proj",), "experts_out": ("experts.down_proj",)}


class Case(NamedTuple):
    family: str
    fields: dict[str, Any]
    """Of their configuration."""
    build: Callable[[Any, Any], nn.Module]
    """From their module of code and a configuration to what computes the sublayer."""
    ours: dict[str, Any]
    """Our declaration."""
    names: dict[str, tuple[str, ...]]
    """Our parameter -> theirs, stacked along the rows."""


def under(place: str, names: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {ours: tuple(f"{place}.{n}" for n in theirs) for ours, theirs in names.items()}


class GraniteSublayer(nn.Module):
    """What Granite's layer adds up after its second norm."""

    def __init__(self, code: Any, config: Any) -> None:
        super().__init__()
        self.moe = code.GraniteMoeHybridMoE(config)
        self.shared = code.GraniteMoeHybridMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(x) + self.shared(x)


JAMBA = Case(
    "jamba",
    {"num_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 7},
    lambda code, config: code.JambaSparseMoeBlock(config),
    {"n_experts": 5, "d_ff": 7, "norm_topk": False},
    {"router.weight": ("router.weight",), **STACKS},
)
GRANITE = Case(
    "granitemoehybrid",
    {
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "intermediate_size": 7,
        "shared_intermediate_size": 9,
        "mamba_n_heads": 4,  # has no meaning here, but must divide
    },
    GraniteSublayer,
    {"n_experts": 6, "top_k": 3, "d_ff": 7, "topk_first": True, "d_shared": 9},
    {
        **under("moe", {"router.weight": ("router.weight",), **STACKS}),
        "shared.mlp.in_proj.weight": ("shared.input_linear.weight",),
        "shared.out_proj.weight": ("shared.output_linear.weight",),
    },
)
QWEN = Case(
    "qwen3_next",
    {
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 7,
        "shared_expert_intermediate_size": 9,
        "norm_topk_prob": True,
    },
    lambda code, config: code.Qwen3NextSparseMoeBlock(config),
    {"n_experts": 6, "top_k": 3, "d_ff": 7, "d_shared": 9, "shared_gate": True},
    {
        "router.weight": ("gate.weight",),
        **STACKS,
        **under("shared_expert", SHARED),
        "shared.gate.weight": ("shared_expert_gate.weight",),
    },
)
GROUPED = {
    "n_routed_experts": 12,
    "num_local_experts": 12,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 7,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
OUR_GROUPED = {
    "n_experts": 12,
    "top_k": 4,
    "d_ff": 7,
    "router": "sigmoid",
    "n_groups": 4,
    "topk_group": 2,
    "routed_scale": 2.5,
    "balance": "bias",
}
NEMOTRON = Case(
    "nemotron_h",
    {**GROUPED, "moe_shared_expert_intermediate_size": 9, "moe_latent_size": 6},
    lambda code, config: code.NemotronHMoE(config),
    {**OUR_GROUPED, "d_shared": 9, "d_latent": 6, "gated": False, "activation": "relu2"},
    {
        "router.weight": ("gate.weight",),
        "latent_in.weight": ("fc1_latent_proj.weight",),
        "latent_out.weight": ("fc2_latent_proj.weight",),
        "experts_in": ("experts.up_proj",),
        "experts_out": ("experts.down_proj",),
        "shared.mlp.in_proj.weight": ("shared_experts.up_proj.weight",),
        "shared.out_proj.weight": ("shared_experts.down_proj.weight",),
    },
)
DEEPSEEK = Case(
    "deepseek_v3",
    {**GROUPED, "n_shared_experts": 2},
    lambda code, config: code.DeepseekV3MoE(config),
    {**OUR_GROUPED, "d_shared": 14},
    {"router.weight": ("gate.weight",), **STACKS, **under("shared_experts", SHARED)},
)
CASES = {
    "Jamba": JAMBA,
    "Granite 4": GRANITE,
    "Qwen3-Next": QWEN,
    "Qwen3-Next, scores as they are": QWEN._replace(
        fields={**QWEN.fields, "norm_topk_prob": False}, ours={**QWEN.ours, "norm_topk": False}
    ),
    "Nemotron 3": NEMOTRON,
    "Nemotron 3, experts as wide as the model, one group": NEMOTRON._replace(
        fields={**NEMOTRON.fields, "moe_latent_size": None, "n_group": 1, "topk_group": 1},
        ours={**NEMOTRON.ours, "d_latent": None, "n_groups": 1, "topk_group": 1},
        names={k: v for k, v in NEMOTRON.names.items() if "latent" not in k},
    ),
    "DeepSeek-V3": DEEPSEEK,
}


class Pair(NamedTuple):
    ours: MoE
    theirs: nn.Module
    names: dict[str, tuple[str, ...]]


def code_of(family: str) -> Any:
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}")


def config_of(case: Case) -> Any:
    code = importlib.import_module(f"transformers.models.{case.family}.configuration_{case.family}")
    (kind,) = {
        value
        for name, value in vars(code).items()
        if name.endswith("Config") and getattr(value, "model_type", "") == case.family
    }
    return kind(hidden_size=WIDTH, experts_implementation="eager", **case.fields)


def pair(case: Case, dtype: torch.dtype = torch.float64) -> Pair:
    """Both blocks with the same random weights, and a bias on the choice that matters."""
    theirs = case.build(code_of(case.family), config_of(case)).eval()
    enliven(theirs)
    spec = Spec.of({"pattern": "E", "d_model": WIDTH, "vocab_size": 37, "mixers": {"E": case.ours}})
    ours = mixers.build(spec.mixers[0].mixer, WIDTH, 1e-5)
    assert isinstance(ours, MoE)
    given = dict(theirs.named_parameters())
    mine = dict(ours.named_parameters())
    assert set(case.names) == set(mine)
    assert sorted(n for parts in case.names.values() for n in parts) == sorted(given)
    with torch.no_grad():
        for name, parts in case.names.items():
            mine[name].copy_(_stacked(parts, given))
    if ours.router.bias is not None:
        # Sigmoid scores lie between 0 and 1: this decides some choices and not all.
        bias = 0.3 * torch.randn(len(ours.router.bias), generator=torch.Generator().manual_seed(4))
        ours.router.bias.copy_(bias)
        theirs.get_buffer("gate.e_score_correction_bias").copy_(bias)
    return Pair(ours.to(dtype), theirs.to(dtype), case.names)


def _stacked(parts: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[part] for part in parts])


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(2, LENGTH, WIDTH, generator=draw, dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def differences(p: Pair, impl: str = "auto", dtype: torch.dtype = torch.float64):
    """Largest difference of outputs, and of gradients of weights and input, relative."""
    found = []
    p.ours.impl = impl
    for module in (p.ours, p.theirs):
        x = inputs(dtype)
        y = module(x, None, None, False)[0] if module is p.ours else module(x)
        value = (y * probe(tuple(y.shape)).to(y)).sum()
        grads = gradients(value, module)
        y = module(x, None, None, False)[0] if module is p.ours else module(x)
        grads["x"] = torch.autograd.grad((y * probe(tuple(y.shape)).to(y)).sum(), x)[0]
        found.append((y, grads))
    (mine, ours), (yours, theirs) = found
    theirs = {n: _stacked(parts, theirs) for n, parts in p.names.items()} | {"x": theirs["x"]}
    return distance(mine, yours), relative(ours, theirs)


@pytest.mark.parametrize("impl", ["sorted", "dense"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree(name, impl):
    """Measured: outputs 9e-16, gradients 6e-16."""
    with Widened():
        outputs, grads = differences(pair(CASES[name]), impl)
    assert outputs < EXACT
    assert grads < EXACT


@pytest.mark.parametrize("name", CASES)
def test_as_shipped(name):
    """The judge untouched, in fp32. Measured: outputs 8e-7, gradients 4e-7."""
    outputs, grads = differences(pair(CASES[name], torch.float32), dtype=torch.float32)
    assert outputs < 5e-6
    assert grads < 5e-6


OTHERWISE = {
    "Jamba": {"norm_topk": True},
    "Granite 4": {"topk_first": False, "norm_topk": False},
    "Qwen3-Next": {"norm_topk": False},
    "Nemotron 3": {"n_groups": 1, "topk_group": 1},
    "DeepSeek-V3": {"routed_scale": 1.0},
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_another_setting_of_ours_disagrees(name):
    case = CASES[name]
    with Widened():
        found = differences(pair(case._replace(ours={**case.ours, **OTHERWISE[name]})))
    assert found[0] > 1e-3


@pytest.mark.parametrize("name", ["Nemotron 3", "DeepSeek-V3"])
def test_without_the_bias_others_are_chosen(name):
    p = pair(CASES[name])
    assert p.ours.router.bias is not None
    p.ours.router.bias.zero_()
    with Widened():
        assert differences(p)[0] > 1e-3


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("family", ["qwen3_next", "jamba", "granitemoehybrid"])
def test_the_balance_loss_is_theirs(family, top_k):
    """One layer; they average layers before the product, we add the losses of layers."""
    theirs = code_of(family).load_balancing_loss_func
    logits = torch.randn(3 * 11, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, :4] = False
    mask[2, -1:] = False
    for given in (None, mask):
        choice = route(logits, top_k)
        real = None if given is None else given.flatten()[None]
        load = loads(choice.index[None], 6, real)
        mine = balance_loss(load, choice.shares[None], real)
        with Widened():
            yours = theirs((logits,), 6, top_k, None if given is None else given.double())
        assert distance(mine, yours) < EXACT
        grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (mine, yours)]
        assert float(grads[0].abs().max()) > 1e-4
        assert distance(*grads) < EXACT
