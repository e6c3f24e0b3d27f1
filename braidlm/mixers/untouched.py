"""Whether modules are as they were built, so that their weights are all that calls of them do.

Shorter ways read the weight of a module and never call it. A hook on it, or an adapter of another
library in its place, would be passed by without a word.
"""

from __future__ import annotations

from torch import nn


def is_untouched(*modules: nn.Module) -> bool:
    """Whether no part of `modules` has a hook, or a weight that is not a parameter of its own."""
    return all(_is_as_built(part) for module in modules for part in module.modules())


def _is_as_built(part: nn.Module) -> bool:
    if part._forward_hooks or part._forward_pre_hooks:
        return False
    if part._backward_hooks or part._backward_pre_hooks:
        return False
    if isinstance(part, nn.Linear):
        return type(part) is nn.Linear and type(part.weight) is nn.Parameter
    return not hasattr(part, "weight") or "weight" in part._parameters
