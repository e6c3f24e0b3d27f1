"""AdamW with its two groups of parameters, and its state by the names of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.arch.experiment import TrainConfig
from braidlm.errors import InputError

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


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, each once, in two named groups.

    Raises:
        InputError: the model has no trainable parameter.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise InputError("the model has no trainable parameter")
    groups = []
    for group, decay in (("decay", config.weight_decay), ("no_decay", 0.0)):
        members = [(n, p) for n, p in named if decays(n, p) == (group == "decay")]
        if members:
            groups.append({"name": group, "params": members, "weight_decay": decay})
    can_fuse = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for _, p in named)
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        fused=can_fuse or None,
    )


def describe_groups(optimizer: torch.optim.Optimizer) -> list[Group]:
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


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next update in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    groups = optimizer.param_groups
    return {n: p for g in groups for n, p in zip(g["param_names"], g["params"], strict=True)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return the moments and counters of each weight, by its name (not copied)."""
    return {
        name: dict(optimizer.state[parameter])
        for name, parameter in _parameters(optimizer).items()
        if parameter in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put `optimizer_state` back; tensors go to their parameter's device in their own dtype.

    A weight that has never had a gradient has no state, and needs none.

    Raises:
        InputError: naming the first state that belongs to no weight or has another shape.
    """
    parameters = _parameters(optimizer)
    for name, stored in state.items():
        if name not in parameters:
            raise InputError(f"the stored optimizer has an unexpected state of '{name}'")
        shape, expected = tuple(stored["exp_avg"].shape), tuple(parameters[name].shape)
        if shape != expected:
            raise InputError(
                f"the stored optimizer state of '{name}' has shape {shape}, expected {expected}"
            )
    is_fused = bool(optimizer.defaults["fused"])
    for name, stored in state.items():
        device = parameters[name].device
        optimizer.state[parameters[name]] = {
            # The fused form wants its counters beside the parameters, the others on the CPU.
            key: value.to(device if value.ndim or is_fused else "cpu", copy=True)
            for key, value in stored.items()
        }
