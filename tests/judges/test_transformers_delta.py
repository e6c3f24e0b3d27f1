"""Gated DeltaNet and KDA against four families of transformers: one layer, output and gradients.

The same weights, by the maps of `interop`, at lengths below, at and beyond several chunks of 64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm import mixers
from braidlm.arch.mixers import GatedDeltaNetConfig, KDAConfig
from braidlm.interop.delta_tables import KIMI_LINEAR, OLMO_HYBRID, QWEN3_5, QWEN3_NEXT
from braidlm.interop.family import Rows
from braidlm.interop.names import mixer_entries
from braidlm.mixers.delta import DeltaMixer
from tests.judges.judging import Widened, distance, enliven, gradients, probe, relative

transformers = pytest.importorskip("transformers", minversion="5.15.1")

EXACT = 1e-12
"""Measured in fp64: outputs 2e-15, gradients, relative to the largest entry, 1e-13."""
WIDTH, EPS = 20, 1e-3
GROUPED: dict[str, Any] = {
    "n_heads": 2,
    "n_v_heads": 4,
    "head_dim": 5,
    "v_head_dim": 3,
    "d_conv": 3,
}
KIMI: dict[str, Any] = {"n_heads": 3, "n_v_heads": 3, "head_dim": 10, "v_head_dim": 10, "d_conv": 3}
KIMI |= {"decay_rank": 10, "gate_rank": 10, "gate_bias": False}
THEIRS = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "rms_norm_eps": EPS,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 3,
}


class Case(NamedTuple):
    module: str
    mixer: str
    config: str
    fields: dict[str, Any]
    names: dict[str, Rows]
    out: str
    ours: GatedDeltaNetConfig | KDAConfig


def case(family: str, prefix: str, names: dict[str, Rows], **ours: Any) -> Case:
    """A family with Gated DeltaNet; `ours` are fields beside the common shape."""
    declared = GatedDeltaNetConfig(**GROUPED, **ours)
    out = "o_proj" if prefix == "OlmoHybrid" else "out_proj"
    config = f"{prefix}TextConfig" if prefix == "Qwen3_5" else f"{prefix}Config"
    return Case(family, f"{prefix}GatedDeltaNet", config, THEIRS, names, out, declared)


KIMI_FIELDS = {k: v for k, v in THEIRS.items() if not k.startswith("linear")}
KIMI_FIELDS |= {"linear_head_dim": 10, "linear_num_heads": 3, "linear_conv_kernel_dim": 3}
CASES = {
    "qwen3_next": case("qwen3_next", "Qwen3Next", QWEN3_NEXT),
    "qwen3_5": case("qwen3_5", "Qwen3_5", QWEN3_5),
    "olmo_hybrid": case(
        "olmo_hybrid", "OlmoHybrid", OLMO_HYBRID, allow_negative_eigenvalues=True, norm_eps=1e-5
    ),
    "kimi_linear": Case(
        *("kimi_linear", "KimiLinearDeltaAttention", "KimiLinearConfig", KIMI_FIELDS),
        *(KIMI_LINEAR, "o_proj", KDAConfig(**KIMI)),
    ),
}


class Pair(NamedTuple):
    ours: DeltaMixer
    theirs: Any
    case: Case


def pair(name: str, **changes: Any) -> Pair:
    """A layer of the judge with lively weights, and ours with the same ones, both in fp64."""
    c = CASES[name]
    config = getattr(transformers, c.config)(**c.fields)
    module = getattr(transformers.models, c.module)
    theirs = getattr(getattr(module, f"modeling_{c.module}"), c.mixer)(config, 0).double()
    enliven(theirs)
    ours = mixers.build(c.ours.model_copy(update=changes), WIDTH, EPS).double()
    assert isinstance(ours, DeltaMixer)
    with torch.no_grad():
        for ours_name, value in gathered(c, ours, dict(theirs.named_parameters())).items():
            ours.get_parameter(ours_name).copy_(value)
    return Pair(ours, theirs, c)


def gathered(c: Case, ours: DeltaMixer, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of theirs under our names; each one of theirs is used, but for its projection."""
    entries = mixer_entries(c.names, ours, c.ours)
    used = [name for entry in entries for name in entry.theirs]
    assert sorted([*used, f"{c.out}.weight"]) == sorted(theirs)
    assert all(tuple(theirs[n].shape) == s for e in entries for n, s in e.theirs.items())
    return {entry.ours: entry.gather(theirs.__getitem__) for entry in entries}


def outputs(p: Pair, x: Tensor) -> tuple[Tensor, Tensor]:
    with Widened():
        yours = p.theirs(x)
    mine, _ = p.ours(x, None, None, False)
    return F.linear(mine, p.theirs.get_submodule(p.case.out).weight), yours


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length", [5, 64, 150])
def test_a_layer_is_theirs_with_every_gradient(name, length):
    p = pair(name)
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, length, WIDTH, generator=draw, dtype=torch.float64)
    read = nn.ParameterDict({"x": nn.Parameter(x)})  # its gradient is that of the input
    mine, yours = outputs(p, read["x"])
    assert distance(mine, yours) < EXACT
    direction = probe(tuple(yours.shape))
    with Widened():
        theirs = gradients((yours * direction).sum(), nn.ModuleList((p.theirs, read)))
    ours = gradients((mine * direction).sum(), nn.ModuleList((p.ours, read)))
    assert relative({"x": ours.pop("1.x")}, {"x": theirs.pop("1.x")}) < EXACT
    ours, theirs = ({k.removeprefix("0."): v for k, v in g.items()} for g in (ours, theirs))
    assert relative(ours, gathered(p.case, p.ours, theirs)) < EXACT


WRONG = {
    "qwen3_next": {"norm_eps": 1e-2},
    "qwen3_5": {"gate_activation": "sigmoid"},
    "olmo_hybrid": {"allow_negative_eigenvalues": False},
    "kimi_linear": {"gate_activation": "silu"},
}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_another_setting_is_not_theirs(name):
    p = pair(name, **WRONG[name])
    assert distance(*outputs(p, torch.randn(1, 70, WIDTH, dtype=torch.float64))) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_the_map_goes_back_without_loss(name):
    p = pair(name)
    found = {}
    for entry in mixer_entries(p.case.names, p.ours, p.case.ours):
        found |= entry.scatter(p.ours.get_parameter(entry.ours))
    for their_name, value in p.theirs.named_parameters():
        if their_name != f"{p.case.out}.weight":
            assert torch.equal(found[their_name], value), their_name
