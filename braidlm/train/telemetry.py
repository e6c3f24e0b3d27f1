"""What an update did, by layer and by kind of weight, for `metrics.jsonl`.

    layers        what the layers tell of the first micro-batch, before the update
                  (`HybridLM.forward`, `telemetry`)
    grad_norm     L2 norm of the gradient of each group of weights, before clipping
    update_ratio  L2 norm of each group's change over that of its weights before

Nothing here draws random numbers or changes a weight: losses are the same with it and without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from braidlm.model import HybridLM
from braidlm.segments import Segments


def group_of(model: nn.Module, name: str) -> str:
    """Return the group of a weight: embedding, head, norms, fusion, a mixer's class, or other.

    The output projection of a single mixer counts as the mixer's; a mixer's own norm does too.
    """
    path = name.split(".")
    if path[0] in ("embedding", "meta", "lm_head"):
        return "head" if path[0] == "lm_head" else "embedding"
    if path[0] != "blocks" or path[2] != "mix":
        return "norms" if "norm" in path else "other"
    if path[3] in ("combine", "norms", "scales"):
        return "fusion"
    mixer = ".".join(path[:5]) if path[3] == "branches" else ".".join([*path[:3], "mixer"])
    return type(model.get_submodule(mixer)).__name__.lower()


class Telemetry:
    """Watches the updates that are due.

    Args:
        model: what is trained.
        every: updates from one that is watched to the next; the first one is too. 0: none is.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self.model, self.every = model, every
        self.groups: dict[str, list[Tensor]] = {}
        for name, parameter in model.named_parameters() if every else ():
            if parameter.requires_grad:
                self.groups.setdefault(group_of(model, name), []).append(parameter)
        self.row: dict[str, Any] = {}
        self.before: dict[str, list[Tensor]] = {}

    def is_due(self, step: int) -> bool:
        """Whether update `step` (from 1) is watched."""
        return bool(self.every) and (step == 1 or step % self.every == 0)

    def before_update(self, tokens: Tensor, segments: Segments | None) -> None:
        """Look at the layers, at the whole gradient, and remember the weights."""
        layers = {}
        if isinstance(self.model, HybridLM):
            with torch.no_grad():
                layers = self.model(tokens, segments, return_state=False, telemetry=True).aux
        grads = {g: [p.grad for p in ps if p.grad is not None] for g, ps in self.groups.items()}
        norms = {group: _norm(found) for group, found in grads.items() if found}
        self.row = {"layers": _floats(layers), "grad_norm": _floats(norms)}
        self.before = {g: [p.detach().clone() for p in ps] for g, ps in self.groups.items()}

    def after_update(self) -> dict[str, Any]:
        """Return the row of the update that was watched, and forget the weights."""
        ratios = {}
        for group, before in self.before.items():
            changes = [p.detach() - b for p, b in zip(self.groups[group], before, strict=True)]
            ratios[group] = _norm(changes) / _norm(before)
        self.before = {}
        return self.row | {"update_ratio": _floats(ratios)}


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))


def _floats(named: dict[str, Tensor]) -> dict[str, float]:
    """All numbers in one transfer from the device."""
    if not named:
        return {}
    values = torch.stack([value.float() for value in named.values()]).tolist()
    return dict(zip(named, values, strict=True))
