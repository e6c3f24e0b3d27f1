"""The routers of mixtures of experts over one update: their losses, their loads, their biases.

Loads are added up over micro-batches and processes; the biases move once, after the weights, and
are buffers: a checkpoint has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidlm.mixers import MoE
from braidlm.mixers.router import Router
from braidlm.model import HybridLM


class Routers:
    """The routers of a model, by the names of their sublayers; false if there is none."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[str, Router] = {}
        if isinstance(model, HybridLM):
            for index, block in enumerate(model.blocks):
                mixers = [m for m in block.modules() if isinstance(m, MoE)]
                self.found |= {f"blocks.{index}": mixer.router for mixer in mixers}
        self.begin()

    def __bool__(self) -> bool:
        return bool(self.found)

    def begin(self) -> None:
        """Forget the last batch."""
        self.loads: dict[str, Tensor] = {}
        self.loss: Tensor | None = None

    def add(self, aux: dict[str, Tensor], share: float) -> Tensor | float:
        """Take in one micro-batch and return its part of the batch's router loss.

        Args:
            aux: `Output.aux` of the micro-batch.
            share: its tokens over those of the whole batch, of all processes.

        Returns:
            () nats per token of the batch, with its graph; 0.0 where no router has a loss.
        """
        for name in self.found:
            load = aux[f"{name}.load"]
            self.loads[name] = load if name not in self.loads else self.loads[name] + load
        losses = [aux[key] for name in self.found if (key := f"{name}.router_loss") in aux]
        if not losses:
            return 0.0
        loss = share * torch.stack(losses).sum()
        self.loss = loss.detach() if self.loss is None else self.loss + loss.detach()
        return loss

    def balance(self) -> None:
        """Move the biases by the batch's loads, once for each router, wherever it is used."""
        if not self.loads or all(router.bias is None for router in self.found.values()):
            return
        sums: dict[Router, Tensor] = {}
        for name, load in everywhere(self.loads).items():
            router = self.found[name]
            sums[router] = load if router not in sums else sums[router] + load
        for router, load in sums.items():
            router.balance(load)

    def told(self) -> dict[str, float]:
        """Return what a row of metrics tells of the last batch, this process's share of it.

        `router_loss`: nats per token, where there is such a loss. `load_max`, `load_min`: tokens
        of the fullest and emptiest expert of any layer over the mean of its layer.
        """
        if not self.loads:
            return {}
        loads = torch.stack([_relative(load) for load in self.loads.values()])
        found = {"load_max": loads[:, 0].max(), "load_min": loads[:, 1].min()}
        if self.loss is not None:
            found = {"router_loss": self.loss.to(loads)} | found
        values = torch.stack(list(found.values())).tolist()
        return dict(zip(found, values, strict=True))


def _relative(load: Tensor) -> Tensor:
    """Largest and smallest of a load (E,) over its mean."""
    mean = load.float().mean().clamp_min(1e-9)
    return torch.stack([load.max() / mean, load.min() / mean])


def everywhere(loads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add up over all processes, in one message; alone, return what was given."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return loads
    whole = torch.cat(list(loads.values()))
    distributed.all_reduce(whole)
    sizes = [len(load) for load in loads.values()]
    return dict(zip(loads, whole.split(sizes), strict=True))
