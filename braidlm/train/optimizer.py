"""AdamW, or Muon beside it: groups of parameters, and the state by the names of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.arch.experiment import TrainConfig
from braidlm.errors import InputError
from braidlm.train.muon import Muon, hidden_matrices

NO_DECAY_NAMES = frozenset({"bias", "A_log", "D", "dt_bias"})


@dataclass(frozen=True)
class Group:
    """One line of the optimizer's description."""

    name: str
    weight_decay: float
    n_tensors: int
    n_params: int
    names: tuple[str, ...]


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices that are no norm, bias, A_log, D or dt_bias.

    A module exempts a parameter of its own by setting `parameter._no_weight_decay = True`.
    """
    *path, last = name.split(".")
    if getattr(parameter, "_no_weight_decay", False) or parameter.ndim < 2:
        return False
    in_norm = any("norm" in part.lower() for part in (*path, last))
    return not in_norm and last not in NO_DECAY_NAMES


class Optimizer:
    """torch's optimizers that share the weights of one model among them.

    Every group has a `name`, and an `lr_ratio`: its learning rate as a share of the common one.
    """

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = tuple(members)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all members."""
        return [group for member in self.members for group in member.param_groups]

    def step(self) -> None:
        """Update every weight that has a gradient."""
        for member in self.members:
            member.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)


def build_optimizer(model: nn.Module, config: TrainConfig, width_ratio: float = 1.0) -> Optimizer:
    """Return the optimizer of the trainable parameters, each once, in named groups.

    Args:
        model: what is trained.
        config: how.
        width_ratio: `Spec.width_ratio`; under muP (`docs/mup.md`) AdamW updates hidden matrices
            at 1 / width_ratio times the rate; their decay grows by it, so that the product stays.

    Raises:
        InputError: the model has no trainable parameter, or Muon cannot take its weights.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise InputError("the model has no trainable parameter")
    is_muon = config.optimizer == "muon"
    hidden = hidden_matrices(model) if is_muon or width_ratio != 1.0 else {}
    groups = _groups(named, hidden, config, width_ratio)
    matrices = [group for group in groups if group["name"] == "muon"]
    others = [group for group in groups if group["name"] != "muon"]
    members: list[torch.optim.Optimizer] = []
    if others:
        members.append(_adamw(others, config))
    if matrices:
        members.append(Muon(matrices, hidden, config.lr, config.muon))
    return Optimizer(members)


def _groups(
    named: Sequence[tuple[str, Tensor]],
    hidden: Mapping[str, tuple[int, ...]],
    config: TrainConfig,
    width_ratio: float,
) -> list[dict[str, Any]]:
    """Sort the weights by what happens to them; a group without any is left out.

    decay, no_decay: AdamW; hidden, hidden_no_decay: AdamW by muP; muon.
    """
    muon_ratio = config.muon.lr / config.lr if config.muon.lr else 1.0
    settings = (
        ("decay", config.weight_decay, 1.0),
        ("no_decay", 0.0, 1.0),
        ("hidden", config.weight_decay * width_ratio, 1.0 / width_ratio),
        ("hidden_no_decay", 0.0, 1.0 / width_ratio),
        ("muon", config.muon.weight_decay, muon_ratio),
    )
    members: dict[str, list[tuple[str, Tensor]]] = {name: [] for name, _, _ in settings}
    for name, parameter in named:
        is_decaying = decays(name, parameter)
        group = "decay" if is_decaying else "no_decay"
        if name in hidden and config.optimizer == "muon":
            group = "muon"
        elif name in hidden:
            group = "hidden" if is_decaying else "hidden_no_decay"
        members[group].append((name, parameter))
    return [
        {"name": name, "params": members[name], "weight_decay": decay, "lr_ratio": ratio}
        for name, decay, ratio in settings
        if members[name]
    ]


def _adamw(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.AdamW:
    parameters = [p for group in groups for _, p in group["params"]]
    can_fuse = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        fused=can_fuse or None,
    )


def describe_groups(optimizer: Optimizer) -> list[Group]:
    """Return the groups with their weights' names, for the log and for tests."""
    return [
        Group(
            name=group["name"],
            weight_decay=group["weight_decay"],
            n_tensors=len(group["params"]),
            n_params=sum(p.numel() for p in group["params"]),
            names=tuple(group["param_names"]),
        )
        for group in optimizer.param_groups
    ]


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the common rate of the next update; each group has its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_ratio"]


def _parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the weights of one member by name."""
    if isinstance(optimizer, Muon):
        return optimizer.weights
    groups = optimizer.param_groups
    return {n: p for g in groups for n, p in zip(g["param_names"], g["params"], strict=True)}


def optimizer_state(optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return the moments and counters of each weight, by its name; AdamW's are not copied."""
    state: dict[str, dict[str, Tensor]] = {}
    for member in optimizer.members:
        if isinstance(member, Muon):
            state |= member.weight_state()
        else:
            named = _parameters(member).items()
            state |= {name: dict(member.state[p]) for name, p in named if p in member.state}
    return state


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Put `optimizer_state` back; tensors go to their parameter's device in their own dtype.

    A weight that has never had a gradient has no state, and needs none.

    Raises:
        InputError: naming the first state that belongs to no weight or has another shape.
    """
    owners = {
        name: (member, weight)
        for member in optimizer.members
        for name, weight in _parameters(member).items()
    }
    for name, stored in state.items():
        if name not in owners:
            raise InputError(f"the stored optimizer has an unexpected state of '{name}'")
        member, weight = owners[name]
        key = "momentum_buffer" if isinstance(member, Muon) else "exp_avg"
        shape, expected = tuple(stored[key].shape), tuple(weight.shape)
        if shape != expected:
            raise InputError(
                f"the stored optimizer state of '{name}' has shape {shape}, expected {expected}"
            )
    for name, stored in state.items():
        member, weight = owners[name]
        if isinstance(member, Muon):
            member.load_weight_state(name, stored)
        else:
            _load_adamw_state(member, weight, stored)


def _load_adamw_state(
    adamw: torch.optim.Optimizer, weight: Tensor, stored: Mapping[str, Tensor]
) -> None:
    is_fused = bool(adamw.defaults["fused"])
    adamw.state[weight] = {
        # The fused form wants its counters beside the parameters, the others on the CPU.
        key: value.to(weight.device if value.ndim or is_fused else "cpu", copy=True)
        for key, value in stored.items()
    }
