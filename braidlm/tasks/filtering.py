"""A task's token filter: calibrated on rows of the training data, set in the model's Mamba layers.

Rows of the run's own training calibrate, so that long memories decay in a long text as they did in
training. The rule itself is in `braidlm.mixers.step_filter`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.arch.tasks import AnyTask
from braidlm.arch.tasks.token_filter import TokenFilter
from braidlm.data.mixture import Mixture
from braidlm.errors import InputError
from braidlm.generate.mode import device_of, inference
from braidlm.mixers import Mamba1, Mamba2
from braidlm.mixers.step_filter import StepCurve, StepFilter, StepRule

Kept = dict[str, list[int]]
"""Layer -> its channels, the global ones, steps of global channels that counted, and all."""


class Filtering:
    """The filter of one task; calibrated when a model is asked first.

    Args:
        task: declares it.
        recipe: of the run, whose training data calibrate.
    """

    def __init__(self, task: AnyTask, recipe: Recipe) -> None:
        self.task, self._recipe = task, recipe
        self._rules: dict[str, StepFilter] | None = None

    @contextlib.contextmanager
    def on(self, model: nn.Module, dtype: str) -> Iterator[Callable[[], Kept]]:
        """Filter while inside; yields what tells how much was kept since.

        Raises:
            InputError: a model without a Mamba layer, or training data that cannot be read.
        """
        rules = self._calibrated(model, dtype)
        before = {name: rule.counts for name, rule in rules.items()}

        def kept() -> Kept:
            return {
                name: [len(rule.is_global), int(rule.is_global.sum()), *_since(rule, before[name])]
                for name, rule in rules.items()
            }

        with _ruled(mamba_layers(model) if rules else {}, rules):
            yield kept

    def _calibrated(self, model: nn.Module, dtype: str) -> dict[str, StepFilter]:
        """Calibrate, unless that is done or nothing is filtered."""
        if self.task.token_filter is None:
            return {}
        if self._rules is None:
            layers = mamba_layers(model)
            if not layers:
                raise InputError(
                    f"task '{self.task.name}': token_filter needs a Mamba-1 or Mamba-2 layer; the "
                    f"model '{self._recipe.spec.pattern}' has none"
                )
            with inference(model, dtype):
                self._rules = calibrated(model, layers, self.task.token_filter, self._recipe)
        return self._rules


def mamba_layers(model: nn.Module) -> dict[str, Mamba1 | Mamba2]:
    """Return the Mamba layers of a model by name, wherever they stand, a shared one once."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Mamba1 | Mamba2)}


def calibrated(
    model: nn.Module, layers: Mapping[str, Mamba1 | Mamba2], config: TokenFilter, recipe: Recipe
) -> dict[str, StepFilter]:
    """Return a filter for each layer, from the first rows of the recipe's training data.

    Raises:
        InputError: data that cannot be read.
    """
    own = recipe.data.model_copy(update={"replay": None})
    data = Mixture(own, batch_size=1, seed=recipe.seed)
    curves = {name: StepCurve(config.clamp_percent) for name in layers}
    with _ruled(layers, curves):
        for number in range(config.n_rows):
            batch = data.batch(number).to(device_of(model))
            model(batch.tokens, batch.segments, return_state=False)
    return {
        name: StepFilter(curves[name], slowest(layer), config.min_decay)
        for name, layer in layers.items()
    }


def slowest(layer: Mamba1 | Mamba2) -> torch.Tensor:
    """Return the slowest rate -A of each channel (n_channels,), at least fp32."""
    rates = layer.dynamics.A_log.detach().float().exp()
    return rates.reshape(len(rates), -1).amin(1)


def told(found: Iterable[Kept]) -> dict[str, Any]:
    """Sum up what batches kept: the entry `token_filter` of a result; {} where none was filtered.

    Returns:
        channels, global channels, and for each layer these and the share of steps in global
        channels that counted, None where there were none.
    """
    layers: dict[str, list[int]] = {}
    for kept in found:
        for name, (channels, n_global, counted, seen) in kept.items():
            before = layers.get(name, [0, 0, 0, 0])
            layers[name] = [channels, n_global, before[2] + counted, before[3] + seen]
    if not layers:
        return {}
    rows = [{"layer": name, **_shares(counts)} for name, counts in layers.items()]
    whole = _shares([sum(column) for column in zip(*layers.values(), strict=True)])
    return {"token_filter": {**whole, "layers": rows}}


def _shares(counts: Sequence[int]) -> dict[str, Any]:
    channels, n_global, counted, seen = counts
    share = counted / seen if seen else None
    return {"channels": channels, "global": n_global, "kept": share}


def _since(rule: StepFilter, before: tuple[int, int]) -> list[int]:
    return [now - then for now, then in zip(rule.counts, before, strict=True)]


@contextlib.contextmanager
def _ruled(layers: Mapping[str, Mamba1 | Mamba2], rules: Mapping[str, StepRule]) -> Iterator[None]:
    try:
        for name, layer in layers.items():
            layer.step_rule = rules[name]
        yield
    finally:
        for layer in layers.values():
            layer.step_rule = None
