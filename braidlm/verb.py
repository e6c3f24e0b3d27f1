"""Subpackages that are also the function of their name: `braidlm.train(recipe, out)`.

`train` and `generate` are a room each, and the one thing a user does there. Were the package's
attribute the function, its meaning would depend on what was imported first. So it is always the
subpackage, and the subpackage can be called.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Verb(ModuleType):
    """A subpackage that, when called, is its function of the same name."""

    @property
    def __call__(self) -> Callable[..., Any]:
        """The function."""
        return getattr(self, self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's, for help texts."""
        return inspect.signature(self.__call__)


def make_callable(name: str) -> None:
    """Turn the imported module `name` into a `Verb`."""
    sys.modules[name].__class__ = Verb
