"""The form that holds any declaration: our spec in `config.json`, our names behind "model."."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from braidlm.arch import Spec
from braidlm.tensors import About, Source

MODEL_TYPE = "braid"
PREFIX = "model."


def own_config(spec: Spec) -> dict[str, Any]:
    """Return the configuration; `import braidlm.hf` teaches transformers to read it."""
    return {
        "architectures": ["BraidForCausalLM"],
        "model_type": MODEL_TYPE,
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "tie_word_embeddings": spec.tie_embeddings,
    }


def own_about(source: Source) -> dict[str, About]:
    """Return shape and dtype of each tensor under its name there."""
    return {PREFIX + name: about for name, about in source.about.items()}


def own_names(source: Source) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor under its name there."""
    for name in source.about:
        yield PREFIX + name, source.read(name)
