"""B'MOJO-F against its equations with plain masks, what each token sees, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from braidlm.arch import Spec
from braidlm.arch.knobs import heads, with_setting
from braidlm.arch.mixers import BMojoFConfig, Mamba2Config
from braidlm.arch.toml import model_table
from braidlm.arch.widen import widen
from braidlm.errors import InputError
from braidlm.mixers import BMojoF, build
from braidlm.model import HybridLM
from braidlm.train.muon import hidden_matrices
from tests.specs import ALL

DIM, HEADS, KV, P, EPS = 10, 6, 2, 4, 1e-3
SSM: dict[str, Any] = {"kind": "mamba2", "n_heads": 2, "head_dim": 3, "d_state": 4, "chunk_size": 4}


def mixer(**options: Any) -> BMojoF:
    config = {"n_heads": HEADS, "n_kv_heads": KV, "head_dim": P, "window": 3, "ssm": SSM}
    torch.manual_seed(0)
    built = build(BMojoFConfig.of({**config, **options}), DIM, EPS)
    assert isinstance(built, BMojoF)
    built.double().reset_parameters(0.4)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return built


class Judge:
    """The published layer again: matrices by name, complex rotations, two masks, one softmax."""

    def __init__(self, module: BMojoF, **options: Any) -> None:
        self.w = dict(module.named_parameters())
        self.options = options

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = torch.einsum("bti,oi->bto", x, self.w[f"{name}.weight"])
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def heads(self, x: Tensor, norm: str) -> Tensor:
        """(B, T, n * P) -> (B, n, T, P), normed and turned by positions."""
        x = x.unflatten(-1, (-1, P)).transpose(1, 2)
        if self.options.get("qk_norm") == "head":
            x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * self.w[f"{norm}.weight"]
        if self.options.get("position") == "none":
            return x
        pairs = torch.complex(x[..., : P // 2], x[..., P // 2 :])
        frequency = 10_000.0 ** (-torch.arange(P // 2, dtype=torch.float64) / (P // 2))
        frequency = frequency.float().double()  # they are kept in fp32
        angle = torch.arange(x.shape[2])[:, None] * frequency
        pairs = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        """u (B, T, HEADS * P), of x (B, T, DIM) and the recurrence's s (B, T, width)."""
        tied, length = self.options.get("tied", True), x.shape[1]
        f = self.linear("fade_proj", s)
        q = self.heads(self.linear("q_proj", x), "q_norm")
        keys, values = [], []
        for source, name, norm in (
            (x, "kv_proj", "k_norm"),
            (f, "kv_proj", "k_norm") if tied else (f, "faded_kv_proj", "faded_k_norm"),
        ):
            k, v = self.linear(name, source).split(KV * P, dim=-1)
            keys.append(self.heads(k, norm).repeat_interleave(HEADS // KV, dim=1))
            v = v.unflatten(-1, (KV, P)).transpose(1, 2)
            values.append(v.repeat_interleave(HEADS // KV, dim=1))
        i, j = torch.arange(length)[:, None], torch.arange(length)
        in_context, fading = (j <= i) & (j > i - 3), (j <= i - 3) & (j > i - 6)
        scores = torch.cat([q @ k.transpose(2, 3) for k in keys], dim=-1) * P**-0.5
        scores = scores.masked_fill(~torch.cat((in_context, fading), dim=1), -torch.inf)
        u = scores.softmax(-1) @ torch.cat(values, dim=2)
        return u.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("options", [
    *({"tied": t, "position": p, "qk_norm": n}
      for t, p, n in product((True, False), ("rope", "none"), ("head", "none"))),
    {"tied": False, "in_bias": True, "ssm": {**SSM, "out_bias": True}},
    {"ssm": {"kind": "kda", "n_heads": 2, "n_v_heads": 2, "head_dim": 3, "v_head_dim": 5,
             "decay_rank": 2, "gate_rank": 2}},
])  # fmt: skip
def test_it_is_its_equations(options):
    module, x = mixer(**options), torch.randn(2, 11, DIM, dtype=torch.float64)

    def gradients(u: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(u.sin().sum(), list(module.parameters())))

    s, _ = module.ssm(x, None, None, False)
    u, _ = module(x, None, None, False)
    judged = Judge(module, **options)(x, s)
    torch.testing.assert_close(u, judged, rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(gradients(u), gradients(judged), strict=True):
        assert ours.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_recurrences_own_factors_and_bias_are_applied():
    plain = mixer()
    scaled = mixer(ssm={**SSM, "in_multiplier": 2.0, "out_multiplier": 3.0})
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(1, 9, DIM, dtype=torch.float64)
    s, _ = plain.ssm(2 * x, None, None, False)
    with torch.no_grad():
        plain.fade_proj.weight.mul_(3)
        expected = Judge(plain)(x, s)
        torch.testing.assert_close(scaled(x, None, None, False)[0], expected)


@torch.no_grad()
def test_yarns_magnitude_is_on_queries_and_on_keys_of_both_kinds():
    """Heads are rotated whole, so that its square is a factor on every score."""
    yarn = {"kind": "yarn", "factor": 4.0, "original_length": 12, "beta_fast": 2.0}
    x = torch.randn(1, 9, DIM, dtype=torch.float64)
    grown = mixer(rope_scaling={**yarn, "attention_factor": 1.7})(x, None, None, False)[0]
    plain = mixer(rope_scaling={**yarn, "attention_factor": 1.0}, softmax_scale=1.7**2 * P**-0.5)
    torch.testing.assert_close(grown, plain(x, None, None, False)[0], rtol=1e-12, atol=1e-12)
    unstretched = mixer(softmax_scale=1.7**2 * P**-0.5)(x, None, None, False)[0]
    assert (grown - unstretched).abs().max() > 1e-3


class Given(nn.Module):
    """A recurrence that gives what it was told to."""

    def __init__(self, s: Tensor) -> None:
        super().__init__()
        self.s = s

    def forward(self, x: Tensor, segments: None, state: None, keep: bool) -> tuple[Tensor, None]:
        return self.s, None


@torch.no_grad()
def test_token_6_sees_4_to_6_as_they_are_and_1_to_3_faded():
    """The example of the published code, for a window of 3."""
    module, x = mixer(), torch.randn(1, 9, DIM, dtype=torch.float64)
    s = torch.randn(1, 9, 6, dtype=torch.float64)
    module.ssm = Given(s)
    before = module(x, None, None, False)[0][0, 6]

    def changes(tensor: Tensor, at: int) -> bool:
        tensor[0, at] += 1
        after = module(x, None, None, False)[0][0, 6]
        tensor[0, at] -= 1
        return bool((after - before).abs().max() > 1e-9)

    assert [t for t in range(9) if changes(x, t)] == [4, 5, 6]
    assert [t for t in range(9) if changes(s, t)] == [1, 2, 3]


def test_every_part_starts_as_it_should():
    wide = BMojoFConfig.of({
        "n_heads": 8, "n_kv_heads": 4, "head_dim": 16, "tied": False, "qk_norm": "head",
        "in_bias": True, "ssm": {**SSM, "head_dim": 64},
    })  # fmt: skip
    module = build(wide, 96, EPS)
    module.reset_parameters(0.3)
    for name, weight in module.named_parameters():
        if name.endswith("proj.weight"):
            assert float(weight.detach().std()) == pytest.approx(0.3, rel=0.1), name
        elif "k_norm" in name or "q_norm" in name:
            assert torch.equal(weight, torch.ones(16)), name
        elif name.endswith("proj.bias"):
            assert not bool(weight.any()), name


def test_defaults_are_those_of_the_published_layer():
    declared = Spec.of({"pattern": "B-", "d_model": 128, "mixers": {"B": {"kind": "bmojo_f"}}})
    config = declared.mixers[1].mixer
    assert isinstance(config, BMojoFConfig)
    assert (config.window, config.tied, config.position) == (2048, True, "rope")
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (2, 2, 64)
    alone = Spec.parse("M", d_model=128).mixers[0].mixer
    assert isinstance(config.ssm, Mamba2Config)
    assert config.ssm == alone
    assert Spec.of(model_table(declared)) == declared
    assert "window 2048 + 2048 faded, rope, faded by mamba2" in config.summary


def test_sizes_inside_grow_with_the_model():
    declared = ALL["B'MOJO-F, Mamba-2"]
    wide = widen(declared, 48).sublayers[0].branches[0]
    assert isinstance(wide, BMojoFConfig)
    assert (wide.n_heads, wide.n_kv_heads, wide.head_dim, wide.window) == (12, 6, 4, 4)
    assert isinstance(wide.ssm, Mamba2Config)
    assert (wide.ssm.n_heads, wide.ssm.head_dim) == (12, 4)
    table = model_table(declared)
    inner = [
        with_setting(table, s)["mixers"]["B"]["ssm"]["n_heads"] for s in heads(table, Fraction(2))
    ]
    assert (min(inner), max(inner)) == (2, 8)


def test_muon_takes_keys_values_and_the_inner_projections_apart():
    model = HybridLM(ALL["B'MOJO-F, untied, gated deltanet, norms, biases"])
    found = set(hidden_matrices(model))
    for name in ("q_proj", "kv_proj", "faded_kv_proj", "fade_proj", "ssm.in_proj"):
        assert f"blocks.0.mix.mixer.{name}.weight" in found
    mix = model.get_submodule("blocks.0.mix.mixer")
    assert isinstance(mix, BMojoF)
    assert mix.row_parts() == {"kv_proj.weight": (8, 8), "faded_kv_proj.weight": (8, 8)}


def test_the_inner_recurrence_tells_of_itself():
    model = HybridLM(ALL["B'MOJO-F, Mamba-2"])
    aux = model(torch.randint(31, (2, 9)), telemetry=True).aux
    assert {"blocks.0.ssm.dt", "blocks.0.ssm.decay", "blocks.0.ssm.state_rms"} <= set(aux)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, r"mixers\.B\.window = 0: input should be greater than 0"),
        ({"n_heads": 4, "n_kv_heads": 3}, r"mixers\.B: n_kv_heads = 3: must divide n_heads = 4"),
        ({"n_heads": 32, "head_dim": 1}, r"head_dim = 1: must be an even number, or give position"),
        ({"n_sinks": 4}, r"mixers\.B: unknown field 'n_sinks'"),
        ({"ssm": "mamba2"}, r"mixers\.B\.ssm.*dict"),
        ({"ssm": {"kind": "attention"}}, r"mixers\.B\.ssm\.kind = 'attention': allowed are 'gated"),
        (
            {"ssm": {"d_stat": 4}},
            r"mixers\.B\.ssm: unknown field 'd_stat' \(did you mean 'd_state'",
        ),
        ({"ssm": {"expand": 0.3}}, r"mixers\.B\.ssm.*expand \* d_model"),
        ({"ssm": {"shared": True}}, r"mixers\.B\.ssm\.shared: belongs to the letter"),
        ({"lora_rank": 2}, r"lora_rank = 2: belongs only to shared = true"),
        ({"lora_rank": 2, "shared": True}, r"only a sublayer of attention or mlp can be adapted"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(fields, message):
    data = {"pattern": "B", "d_model": 32, "mixers": {"B": {"kind": "bmojo_f", **fields}}}
    with pytest.raises(InputError, match=message) as caught:
        Spec.of(data)
    assert "\n" not in str(caught.value)


def test_its_keys_cannot_be_lent():
    letters = {"B": {"kind": "bmojo_f"}, "A": {"kind": "attention", "kv_from": "B"}}
    with pytest.raises(InputError, match="letter 'B' is no attention"):
        Spec.of({"pattern": "BA", "d_model": 32, "mixers": letters})
