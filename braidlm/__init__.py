"""BraidLM: declare, cost, train, test and compare hybrid state-space/attention models.

The names below are imported when they are first used: `import braidlm` costs nothing, and what
needs no torch (`Spec`, `Recipe`) never imports it. `train` and `generate` are the names of rooms:
their functions come from there, ``from braidlm.train import train``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braidlm.arch import Recipe, Spec
    from braidlm.checkpoint import load_model
    from braidlm.model import HybridLM
    from braidlm.segments import Segments
    from braidlm.tasks import evaluate

    __version__: str

__all__ = [
    "HybridLM",
    "Recipe",
    "Segments",
    "Spec",
    "__version__",
    "evaluate",
    "load_model",
]

_HOMES = {
    "HybridLM": "braidlm.model",
    "Recipe": "braidlm.arch",
    "Segments": "braidlm.segments",
    "Spec": "braidlm.arch",
    "evaluate": "braidlm.tasks",
    "load_model": "braidlm.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "__version__":
        value = importlib.metadata.version("braidlm")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'braidlm' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
