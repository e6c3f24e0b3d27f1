"""Learning rates as pure functions of the update.

An update u runs from 1 to `steps`; every function returns a share of the peak rate for that update.
With w warm-up updates from a first share s, a updates of annealing at the end, m = steps - a:

    u <= w          s + (1 - s) u / w
    w < u <= m      cosine:    r + (1 - r) (1 + cos(pi (u - w) / (m - w))) / 2
                    trapezoid: 1, and over the last d updates before m:
                               linear 1 - (1 - r) p, sqrt 1 - (1 - r) sqrt(p), p = (u - m + d) / d
    m < u           linear from the share at m to the annealing ratio, reached at u = steps

Source: trapezoid (WSD) and its 1 - sqrt cool-down: Hägele et al. 2024 (arXiv 2405.18392); warming
up again before a second decay: Gupta et al. 2023 (arXiv 2308.04014), Ibrahim et al. 2024 (arXiv
2403.08763).
"""

from __future__ import annotations

import math

from braidlm.arch.experiment import TrainConfig


def warmup(update: int, warmup_steps: int, first: float = 0.0) -> float:
    """Return the linear warm-up's share: from `first` before the first update to 1."""
    progress = min(1.0, update / warmup_steps) if warmup_steps else 1.0
    return first + (1 - first) * progress if first else progress


def cosine(update: int, warmup_steps: int, end: int, min_ratio: float) -> float:
    """Return the share after warm-up: 1 at `warmup_steps`, `min_ratio` at `end`."""
    progress = _progress(update, warmup_steps, end)
    return min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * progress)) / 2


def trapezoid(
    update: int, end: int, decay_steps: int, min_ratio: float, *, shape: str = "linear"
) -> float:
    """Return the share of a plateau that cools down to `min_ratio` over the last `decay_steps`.

    Raises:
        ValueError: a `shape` other than "linear" and "sqrt".
    """
    if shape not in ("linear", "sqrt"):
        raise ValueError(f"shape = {shape!r}; allowed: linear, sqrt")
    progress = _progress(update, end - decay_steps, end) if decay_steps else 0.0
    return 1 - (1 - min_ratio) * (math.sqrt(progress) if shape == "sqrt" else progress)


def _progress(update: int, start: int, end: int) -> float:
    """Return how far `update` is from `start` to `end`, within 0 and 1."""
    if end <= start:
        return float(update >= end)
    return min(1.0, max(0.0, (update - start) / (end - start)))


def anneal_steps(config: TrainConfig) -> int:
    """Return the number of updates of the final annealing phase."""
    return round(config.anneal_fraction * config.steps)


def learning_rate_ratio(update: int, config: TrainConfig, first: float = 0.0) -> float:
    """Return the share of the peak rate at `update` (1..steps); warm-up begins at `first`."""
    end = config.steps - anneal_steps(config)
    if update > end:
        start = _main_phase(end, config, end, first) if end else 1.0
        return start + (config.anneal_lr_ratio - start) * _progress(update, end, config.steps)
    return _main_phase(update, config, end, first)


def _main_phase(update: int, config: TrainConfig, end: int, first: float) -> float:
    if update <= config.warmup_steps:
        return warmup(update, config.warmup_steps, first)
    if config.schedule == "cosine":
        return cosine(update, config.warmup_steps, end, config.min_lr_ratio)
    decay_steps = min(round(config.decay_fraction * config.steps), end - config.warmup_steps)
    return trapezoid(update, end, decay_steps, config.min_lr_ratio, shape=config.decay_shape)


def learning_rate(update: int, config: TrainConfig, first_lr: float = 0.0) -> float:
    """Return the learning rate of `update` (1..steps).

    Args:
        update: which, 1 for the first.
        config: the schedule.
        first_lr: the rate from which the warm-up rises, or falls.

    Raises:
        ValueError: `update` is outside 1..steps.
    """
    if not 1 <= update <= config.steps:
        raise ValueError(f"update = {update}; allowed: 1 to {config.steps}")
    return config.lr * learning_rate_ratio(update, config, first_lr / config.lr)
