"""Declaration of filtered tokens: what a task changes about how recurrences read long texts."""

from __future__ import annotations

from pydantic import Field

from braidlm.arch.config import Config


class TokenFilter(Config):
    """Which tokens the long memories of Mamba-1 and Mamba-2 skip while a text is read.

    A channel (Mamba-2: a head) is global if exp(A sum dt) over a trained length is above
    `min_decay`. In a text of more tokens a global channel skips those whose dt is small: neither
    decay nor input, as if they were not there. How small is calibrated, so that what is left decays
    a state as much as a trained length does. What continues a state is not filtered.

    Source: Ye et al. 2025 (arXiv 2504.16053), LongMamba.
    """

    min_decay: float = Field(default=0.05, gt=0, lt=1)
    """What is left of a global channel's state after a trained length, at least. Default: 0.05, as
    published for Mamba-2 1.3B; 1e-30 for Mamba-1 1.4B, 1e-5 for Zamba2 1.2B."""
    clamp_percent: float = Field(default=5.0, ge=0, lt=100)
    """Of the calibration's step sizes this many percent, the largest, count as the smallest of
    them. Default: 5, as published for Mamba-2; 20 for Mamba-1."""
    n_rows: int = Field(default=5, gt=0)
    """Rows of the training data that calibrate, the first ones. Default: 5, as published."""
