"""The form that holds any declaration: our spec in `config.json`, our names behind "model."."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from braidlm.arch import Spec
from braidlm.checkpoint import unique_tensors
from braidlm.errors import InputError
from braidlm.interop.names import Entry, shell
from braidlm.model import HybridLM

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


def own_spec(config: Mapping[str, Any], where: str) -> Spec:
    """Read the declaration of such a configuration.

    Raises:
        InputError: it has none, or one that cannot be.
    """
    try:
        return Spec.of(config.get("spec"))
    except InputError as error:
        raise InputError(f"{where}: spec: {error}") from None


def own_entries(spec: Spec, model: HybridLM | None = None) -> list[Entry]:
    """Return the map of names: one tensor there for each of ours; arguments as for `entries`."""
    model = shell(spec) if model is None else model
    shapes = {name: tuple(t.shape) for name, t in unique_tensors(model).items()}
    return [Entry(name, shape, {PREFIX + name: shape}) for name, shape in shapes.items()]
