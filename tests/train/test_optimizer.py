import pytest
import torch
from torch import nn

from braidlm.arch.experiment import TrainConfig
from braidlm.errors import InputError
from braidlm.train.optimizer import (
    build_optimizer,
    describe_groups,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)

from .tiny import TinyLM, TinyMixture

CONFIG = TrainConfig(lr=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, adam_eps=1e-6)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.D = nn.Parameter(torch.ones(2, 2))
        self.dt_bias = nn.Parameter(torch.ones(2, 2))
        self.q_norm = nn.ParameterDict({"weight": nn.Parameter(torch.ones(2, 2))})
        self.meta = nn.Parameter(torch.ones(2, 2))
        setattr(self.meta, "_no_weight_decay", True)  # noqa: B010
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def steps(model, optimizer, count):
    for step in range(count):
        batch = TinyMixture().batch(step)
        optimizer.zero_grad()
        model.loss(batch.tokens, batch.targets, batch.segments).backward()
        optimizer.step()


def test_only_matrices_that_are_no_norm_and_no_ssm_scalar_decay():
    decay, rest = describe_groups(build_optimizer(TinyLM(), CONFIG))
    assert (decay.name, decay.weight_decay) == ("decay", 0.5)
    assert decay.names == ("embedding.weight", "mix.weight")
    assert (rest.name, rest.weight_decay) == ("no_decay", 0.0)
    assert set(rest.names) == {"mix.bias", "norm.weight", "norm.bias", "A_log"}
    assert (decay.n_params, rest.n_params) == (16 * 8 + 64, 8 * 4)


def test_names_flags_and_frozen_weights():
    decay, rest = describe_groups(build_optimizer(Odd(), CONFIG))
    assert decay.names == ("weight",)
    assert set(rest.names) == {"D", "dt_bias", "q_norm.weight", "meta"}


def test_a_zero_gradient_moves_decaying_weights_alone():
    model = TinyLM()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        share = 1 - 0.1 * 0.5 if name in ("embedding.weight", "mix.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * share)


def test_the_update_is_adamw_of_the_paper():
    # One scalar-like weight, two updates by hand. Source: Loshchilov & Hutter 2019, algorithm 2.
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, CONFIG)
    weight, first, second = 2.0, 0.0, 0.0
    for count, (gradient, lr) in enumerate([(0.5, 0.1), (-1.5, 0.02)], start=1):
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        set_learning_rate(optimizer, lr)
        optimizer.step()
        weight *= 1 - lr * 0.5
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        weight -= lr * (first / (1 - 0.8**count)) / ((second / (1 - 0.9**count)) ** 0.5 + 1e-6)
        assert model.weight.item() == pytest.approx(weight, rel=1e-12)


def test_state_goes_by_name_and_brings_the_same_updates(tmp_path):
    model = TinyLM()
    optimizer = build_optimizer(model, CONFIG)
    steps(model, optimizer, 2)
    assert "head.weight" not in optimizer_state(optimizer)
    torch.save(optimizer_state(optimizer), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = TinyLM()
    other.load_state_dict(model.state_dict())
    again = build_optimizer(other, CONFIG)
    load_optimizer_state(again, state)
    steps(model, optimizer, 3)
    steps(other, again, 3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    # The loaded state is a copy: the source still holds what it held.
    assert torch.equal(torch.load(tmp_path / "state.pt")["A_log"]["step"], state["A_log"]["step"])


def test_a_foreign_state_is_refused_by_name():
    optimizer = build_optimizer(TinyLM(), CONFIG)
    tensors = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    with pytest.raises(InputError, match=r"unexpected state of 'other'"):
        load_optimizer_state(optimizer, {"other": tensors})
    with pytest.raises(InputError, match=r"'mix.bias' has shape \(3,\), expected \(8,\)"):
        load_optimizer_state(optimizer, {"mix.bias": tensors})
    with pytest.raises(InputError, match="no trainable parameter"):
        build_optimizer(TinyLM().requires_grad_(False), CONFIG)
