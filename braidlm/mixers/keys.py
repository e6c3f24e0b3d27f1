"""Which modules take part in the lending of keys between sublayers."""

from __future__ import annotations

from torch import nn


def shares_keys(module: nn.Module) -> bool:
    """Whether a module's `forward` takes the keys that are lent in a call."""
    return bool(getattr(module, "shares_keys", False))
