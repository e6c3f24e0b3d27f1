"""Whether modules are as they were built, so that their weights are all that calls of them do.

Shorter ways read the weight of a module and never call it. A hook on it, or an adapter of another
library in its place, would be passed by without a word.
"""

from __future__ import annotations

from torch import Tensor, nn

from braidlm.errors import InputError


def weight_of(projection: nn.Linear, name: str) -> Tensor:
    """Return the weight of a projection that is nowhere called.

    Raises:
        InputError: a hook or an adapter hangs on it.
    """
    if not is_untouched(projection):
        raise InputError(
            f"the weight of {name} is read and {name} never called: "
            "its hooks and adapters would be passed by, so take them off"
        )
    return projection.weight


def is_untouched(*modules: nn.Module) -> bool:
    """Whether no part of `modules` has a hook, or a weight that is not a parameter of its own."""
    return all(_is_as_built(part) for module in modules for part in module.modules())


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of this module calls hooks too; those of its parts do not count."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _is_as_built(part: nn.Module) -> bool:
    if has_hooks(part):
        return False
    if isinstance(part, nn.Linear):
        return type(part) is nn.Linear and type(part.weight) is nn.Parameter
    return not hasattr(part, "weight") or "weight" in part._parameters
