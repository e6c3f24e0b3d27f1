"""`mixers.build` knows every declared mixer, and nothing else."""

import pytest
import torch
import torch.nn.functional as F

from braidlm import mixers
from braidlm.arch import Spec
from braidlm.arch.defaults import LETTERS
from braidlm.arch.mixers import KINDS, MixerConfig, MLPConfig
from braidlm.mixers.norm import RMSNorm


def declared(kind: str) -> MixerConfig:
    data = {"pattern": "A", "d_model": 32, "vocab_size": 8, "mixers": {"A": {"kind": kind}}}
    return Spec.of(data).mixers[0].mixer


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built_and_keeps_the_contract(kind):
    config = declared(kind)
    torch.manual_seed(0)
    mixer = mixers.build(config, 32, 1e-5)
    mixer.reset_parameters(0.1)
    x = torch.randn(2, 5, 32)
    u, state = mixer(x, None, None, True)
    assert u.shape == (2, 5, 32 if config.has_own_output else config.width)
    assert bool(u.std() > 1e-3)
    assert sum(p.numel() for p in mixer.parameters()) == config.n_params(32)
    assert (state is None) == (config.role == "channel")
    again, nothing = mixer(x, None, None, False)
    assert nothing is None
    torch.testing.assert_close(again, u, rtol=0, atol=1e-6)


def test_every_kind_that_has_a_letter_is_a_kind():
    assert set(LETTERS.values()) <= set(KINDS)


def test_a_declaration_without_a_module_is_refused():
    class Wider(MLPConfig):
        pass

    class Unrelated:
        pass

    assert isinstance(mixers.build(Wider(d_ff=3), 4, 1e-5), mixers.MLP)
    with pytest.raises(ValueError, match="no module implements Unrelated"):
        mixers.build(Unrelated(), 4, 1e-5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        ("relu2", lambda x: torch.where(x > 0, x * x, 0)),
    ],
)
@pytest.mark.parametrize("gated", [True, False])
def test_the_mlp_is_its_formula(activation, function, gated):
    torch.manual_seed(0)
    mixer = mixers.build(MLPConfig(d_ff=6, activation=activation, gated=gated), 5, 1e-5)
    assert isinstance(mixer, mixers.MLP)
    mixer.double().reset_parameters(0.5)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    weight = mixer.in_proj.weight
    expected = function(F.linear(x, weight[:6]))
    if gated:  # the gate comes first, then what it gates
        expected = expected * F.linear(x, weight[6:])
    u, state = mixer(x, None, None, True)
    torch.testing.assert_close(u, expected)
    assert state is None


def test_the_norm_is_its_formula_in_groups():
    norm = RMSNorm(6, 1e-3, n_groups=2).double()
    assert torch.equal(norm.weight, torch.ones(6, dtype=torch.float64))
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 6, dtype=torch.float64)
    parts = [p / (p.square().mean(-1, keepdim=True) + 1e-3).sqrt() for p in x.split(3, dim=-1)]
    torch.testing.assert_close(norm(x), torch.cat(parts, dim=-1) * norm.weight)
