import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from braidlm.arch import Recipe
from braidlm.arch.mixers import DeltaConfig, Mamba1Config, Mamba2Config
from braidlm.model import HybridLM
from braidlm.runs import Run
from braidlm.segments import Segments
from braidlm.train import build_model, train
from braidlm.train.telemetry import Telemetry, group_of
from tests.specs import ALL, spec

from .test_loop import CLOCKED, Stopping, assert_same_run, real_recipe, weights
from .tiny import TinyLM
from .tiny import recipe as tiny_recipe
from .tiny import run as run_tiny

TOKENS = torch.arange(2 * 19).view(2, 19) % 31
SEGMENTS = Segments.from_lengths([[9, 10], [1, 13]], 19)


def watched(every: int, steps: int = 6, **fields) -> Recipe:
    plain = real_recipe("fp32").to_dict()
    plain["train"] |= {"telemetry_every": every, "log_every": 2, "steps": steps} | fields
    return Recipe.from_dict(plain)


def rows(path: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in CLOCKED} for r in Run.open(path).metrics()]


@pytest.mark.parametrize("name", ALL)
def test_the_answer_is_the_same_and_every_recurrence_and_branch_tells(name):
    model = HybridLM(ALL[name]).requires_grad_(False)
    told = model(TOKENS, SEGMENTS, telemetry=True)
    plain = model(TOKENS, SEGMENTS)
    assert torch.equal(told.hidden, plain.hidden)
    assert plain.aux == {}
    expected = set()
    for i, sublayer in enumerate(ALL[name].sublayers):
        for j, branch in enumerate(sublayer.branches):
            place = f"blocks.{i}" + (f".branches.{j}" if sublayer.is_parallel else "")
            if isinstance(branch, Mamba1Config | Mamba2Config):
                expected |= {f"{place}.{word}" for word in ("dt", "decay", "state_rms")}
            if isinstance(branch, DeltaConfig):
                expected |= {f"{place}.{word}" for word in ("beta", "decay", "state_rms")}
            if sublayer.is_parallel:
                expected.add(f"{place}.rms")
    assert expected <= set(told.aux)
    for key, value in told.aux.items():
        assert value.shape == ()
        assert math.isfinite(value)
        # An expert may be idle, and a bias starts at zero.
        assert value > 0 or key.endswith((".load_min", ".bias_range"))


def test_mamba_tells_its_steps_decay_and_states_without_padding():
    model = HybridLM(ALL["mamba2 slow decay"])
    mixer = model.get_submodule("blocks.0.mix.mixer")
    x = model.get_submodule("blocks.0.norm")(model.embedding(TOKENS))
    last = mixer.get_parameter("in_proj.weight")[-4:]
    dt = F.softplus(x @ last.T + mixer.get_parameter("dynamics.dt_bias"))[SEGMENTS.is_real]
    decay = torch.exp(-mixer.get_parameter("dynamics.A_log").exp() * dt)
    out = model(TOKENS, SEGMENTS, telemetry=True)
    assert len(dt) == 33
    torch.testing.assert_close(out.aux["blocks.0.dt"], dt.mean())
    torch.testing.assert_close(out.aux["blocks.0.decay"], decay.mean())
    states = out.state[0].ssm
    assert len(states) == 4
    torch.testing.assert_close(out.aux["blocks.0.state_rms"], states.square().mean().sqrt())
    with pytest.raises(ValueError, match="telemetry = True: needs state = None"):
        model(TOKENS, SEGMENTS, out.state, telemetry=True)


def test_mamba_1_tells_means_over_channels_and_columns():
    model = HybridLM(ALL["mamba1 normed (Jamba), no bias"])
    mixer = model.get_submodule("blocks.0.mix.mixer")
    inner = {}
    mixer.get_submodule("dt_proj").register_forward_hook(lambda *a: inner.update(dt=a[2]))
    model(TOKENS, SEGMENTS)
    dt = F.softplus(inner["dt"] + mixer.get_parameter("dynamics.dt_bias"))[SEGMENTS.is_real]
    decay = torch.exp(-mixer.get_parameter("dynamics.A_log").exp() * dt[..., None])
    out = model(TOKENS, SEGMENTS, telemetry=True)
    torch.testing.assert_close(out.aux["blocks.0.dt"], dt.mean())
    torch.testing.assert_close(out.aux["blocks.0.decay"], decay.mean())
    states = out.state[0].ssm
    torch.testing.assert_close(out.aux["blocks.0.state_rms"], states.square().mean().sqrt())


@pytest.mark.parametrize("name", ["gated deltanet", "kda"])
def test_a_delta_rule_tells_its_strength_decay_and_states_without_padding(name):
    model = HybridLM(ALL[name])
    mixer = model.get_submodule("blocks.0.mix.mixer")
    x = model.get_submodule("blocks.0.norm")(model.embedding(TOKENS))
    rows = x @ mixer.get_parameter("in_proj.weight").T
    dt, b = rows[..., :-2], rows[..., -2:]
    dt = dt[..., -2:] if name != "kda" else mixer.get_submodule("decay_proj")(dt[..., -6:])
    dt = F.softplus(dt + mixer.get_parameter("dynamics.dt_bias")).unflatten(-1, (2, -1))
    decay = torch.exp(-mixer.get_parameter("dynamics.A_log").exp()[:, None] * dt)
    out = model(TOKENS, SEGMENTS, telemetry=True)
    beta = torch.sigmoid(b)
    torch.testing.assert_close(out.aux["blocks.0.beta"], beta[SEGMENTS.is_real].mean())
    torch.testing.assert_close(out.aux["blocks.0.decay"], decay[SEGMENTS.is_real].mean())
    memory = out.state[0].memory
    assert len(memory) == 4
    torch.testing.assert_close(out.aux["blocks.0.state_rms"], memory.square().mean().sqrt())


def test_a_branchs_contribution_is_what_it_adds_to_the_output():
    model = HybridLM(ALL["scaled add"])
    mix = model.get_submodule("blocks.0.mix")
    model.get_parameter("blocks.0.mix.scales.1").data.fill_(3.0)
    x = model.get_submodule("blocks.0.norm")(model.embedding(TOKENS))
    told = model(TOKENS, telemetry=True).aux
    for i, scale in enumerate((1.0, 3.0)):
        u = mix.get_submodule(f"norms.{i}")(
            mix.get_submodule(f"branches.{i}")(x, None, None, False)[0]
        )
        y = scale * u @ mix.get_parameter(f"combine.out_projs.{i}.weight").T
        torch.testing.assert_close(told[f"blocks.0.branches.{i}.rms"], y.square().mean().sqrt())
    model.get_parameter("blocks.0.mix.scales.1").data.zero_()
    assert model(TOKENS, telemetry=True).aux["blocks.0.branches.1.rms"] < 1e-6


def test_every_weight_has_its_group():
    declared = spec("M{M*}-", tie_embeddings=False, fusion={"norm": "rms", "scale": "learned"})
    model = HybridLM(declared)
    groups: dict[str, set[str]] = {}
    for name, _ in model.named_parameters():
        groups.setdefault(group_of(model, name), set()).add(name)
    assert groups["embedding"] == {"embedding.weight"}
    assert groups["head"] == {"lm_head.weight"}
    assert groups["norms"] == {"norm.weight", *(f"blocks.{i}.norm.weight" for i in range(3))}
    assert groups["mlp"] == {"blocks.2.mix.mixer.in_proj.weight", "blocks.2.mix.out_proj.weight"}
    assert groups["attention"] == {"blocks.1.mix.branches.1.in_proj.weight"}
    assert groups["fusion"] == {
        f"blocks.1.mix.{part}"
        for i in (0, 1)
        for part in (f"norms.{i}.weight", f"scales.{i}", f"combine.out_projs.{i}.weight")
    }
    assert "blocks.0.mix.out_proj.weight" in groups["mamba2"]
    assert "blocks.1.mix.branches.0.dynamics.A_log" in groups["mamba2"]
    assert set(groups) == {"embedding", "head", "norms", "mlp", "attention", "fusion", "mamba2"}


def test_losses_are_the_same_with_and_without(tmp_path):
    train(watched(0), tmp_path / "off")
    train(watched(3), tmp_path / "on")
    on = rows(tmp_path / "on")
    assert [r["step"] for r in on] == [1, 2, 3, 4, 6]
    assert [r["step"] for r in on if "telemetry" in r] == [1, 3, 6]
    # `loss_max` looks back to the last row, and there is one more.
    bare, off = (
        [{k: v for k, v in r.items() if k not in ("telemetry", "loss_max")} for r in found]
        for found in ([r for r in on if r["step"] != 3], rows(tmp_path / "off"))
    )
    assert bare == off
    for name, tensor in weights(tmp_path / "off").items():
        assert torch.equal(tensor, weights(tmp_path / "on")[name]), name
    for row in on[2], on[4]:
        norms = row["telemetry"]["grad_norm"]
        assert math.hypot(*norms.values()) == pytest.approx(row["grad_norm"], rel=1e-5)
        assert len(norms) == 6


def test_the_first_update_by_hand(tmp_path):
    config = watched(1, steps=1, grad_clip=1e-3)
    train(config, tmp_path)
    (row,) = rows(tmp_path)
    before, after = build_model(config), weights(tmp_path)
    ratio = row["telemetry"]["update_ratio"]["embedding"]
    change = after["embedding.weight"] - before.embedding.weight
    assert ratio == pytest.approx((change.norm() / before.embedding.weight.norm()).item())
    assert row["telemetry"]["layers"]["blocks.0.dt"] > 0


def test_it_resumes_bit_by_bit_and_may_change(tmp_path):
    config = watched(2)
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", mixture=Stopping(config, 2)).step == 3
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    train(watched(0, steps=7), tmp_path / "parts", resume=True)
    assert "telemetry" not in rows(tmp_path / "parts")[-1]


def test_a_model_of_ones_own_tells_of_its_weights(tmp_path):
    run_tiny(tmp_path, tiny_recipe(telemetry_every=4))
    told = [r["telemetry"] for r in rows(tmp_path) if "telemetry" in r]
    assert len(told) == 3
    assert told[0]["layers"] == {}
    assert set(told[0]["grad_norm"]) == {"embedding", "norms", "other"}


def test_nothing_is_kept_when_off():
    telemetry = Telemetry(TinyLM(), 0)
    assert telemetry.groups == {}
    assert not any(telemetry.is_due(step) for step in range(1, 9))
