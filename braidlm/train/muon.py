"""torch's Muon for a model whose weights are stored fused.

Muon replaces a matrix's momentum by the nearest matrix with equal singular values (about). For
q, k and v in one weight that is another matrix than for each alone, so that modules name the parts
of their weights (`row_parts`), and every part is a parameter of its own here: a view of its rows.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon), which splits q, k and v.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from braidlm.arch.experiment import MuonConfig
from braidlm.errors import InputError

NOT_HIDDEN_NAMES = frozenset({"lm_head", "head"})
"""Modules that face the vocabulary, beside `nn.Embedding`: Muon is for what lies between."""


def hidden_matrices(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the weights that Muon may take, by name, with the rows of each matrix in them.

    These are the weights of `nn.Linear` and those that a module names in `row_parts`, without
    embedding and head. The rows of a stack (E, R, C) are those of the (E R, C) matrix.

    Raises:
        ValueError: declared rows that do not add up to the weight's.
    """
    outside = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parts: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, nn.Linear) and path.split(".")[-1] not in NOT_HIDDEN_NAMES:
            parts.setdefault(f"{prefix}weight", (module.out_features,))
        if (declared := getattr(module, "row_parts", None)) is not None:
            parts.update({f"{prefix}{name}": rows for name, rows in declared().items()})
    weights = dict(model.named_parameters())
    found = {n: r for n, r in parts.items() if n in weights and id(weights[n]) not in outside}
    for name, rows in found.items():
        if sum(rows) != weights[name].shape[:-1].numel():
            raise ValueError(f"row_parts of '{name}' = {rows}: must add up to its rows")
    return found


class Muon(torch.optim.Muon):
    """torch's Muon over the parts of weights.

    Args:
        groups: each with `name`, `lr_ratio` and `params`, a list of (weight's name, weight).
        parts: rows of each part of the weights named there.
        lr: peak learning rate.
        config: momentum, weight decay and the rate by shape.

    Raises:
        InputError: a weight that is sharded over processes: its rows lie in several places.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        parts: Mapping[str, tuple[int, ...]],
        lr: float,
        config: MuonConfig,
    ) -> None:
        self.weights: dict[str, Tensor] = {}
        self.views: dict[str, list[Tensor]] = {}
        for name, weight in (pair for group in groups for pair in group["params"]):
            _refuse_sharded(name, weight)
            self.weights[name] = weight
            # Views of one storage: what torch's Muon writes into a part is in the weight.
            self.views[name] = list(_rows(weight.detach()).split(parts[name]))
        super().__init__(
            [{**group, "params": self._named_views(group["params"])} for group in groups],
            lr=lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn=config.adjust_lr_fn,
        )

    def _named_views(self, members: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        named = []
        for name, _ in members:
            views, start = self.views[name], 0
            for view in views:
                rows = f"[{start}:{start + len(view)}]" if len(views) > 1 else ""
                named.append((name + rows, view))
                start += len(view)
        return named

    def step(self, closure: Any = None) -> Any:
        """Update every part from its rows of the weight's gradient."""
        for name, weight in self.weights.items():
            views = self.views[name]
            sizes = [len(view) for view in views]
            whole = weight.grad
            grads = [None] * len(views) if whole is None else _rows(whole).split(sizes)
            for view, grad in zip(views, grads, strict=True):
                view.grad = grad
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the weights, and of their parts."""
        super().zero_grad(set_to_none=True)
        for weight in self.weights.values():
            weight.grad = None

    def weight_state(self) -> dict[str, dict[str, Tensor]]:
        """Return the momentum of each weight as one tensor of its shape."""
        state = {}
        for name, views in self.views.items():
            if all(view in self.state for view in views):
                whole = torch.cat([self.state[view]["momentum_buffer"] for view in views])
                state[name] = {"momentum_buffer": whole.view(self.weights[name].shape)}
        return state

    def load_weight_state(self, name: str, stored: Mapping[str, Tensor]) -> None:
        """Put a momentum back."""
        views = self.views[name]
        buffers = _rows(stored["momentum_buffer"]).split([len(view) for view in views])
        for view, buffer in zip(views, buffers, strict=True):
            self.state[view] = {"momentum_buffer": buffer.to(view.device, copy=True)}


def _rows(weight: Tensor) -> Tensor:
    """Return a matrix itself, and a stack (E, R, C) as a matrix (E R, C)."""
    return weight.flatten(0, -2)


def _refuse_sharded(name: str, weight: Tensor) -> None:
    # A sharded weight can exist only where this module was imported; the import itself is slow.
    module = sys.modules.get("torch.distributed.tensor")
    if module is not None and isinstance(weight, module.DTensor):
        raise InputError(
            f"train.optimizer = 'muon': the weight '{name}' is sharded over processes, and Muon "
            "needs whole matrices; allowed with sharded weights: 'adamw'"
        )
