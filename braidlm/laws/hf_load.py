"""Where a model of transformers comes from: a folder, a configuration alone, or a family's name.

Code that lies beside a checkpoint is never executed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from braidlm.errors import InputError
from braidlm.laws.hf import TransformersSubject
from braidlm.laws.hf_tiny import TINY, shrunk
from braidlm.laws.lively import enliven

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
MAX_LAYERS = 10_000
"""More is a damaged file, and would be built for hours."""


def is_ours(source: str | Path) -> bool:
    """Whether a path or a word means nothing to transformers."""
    path = Path(source)
    file = path / "config.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        return "model_type" not in _fields(file)
    return path.exists() or str(source) not in _families()


def load(source: str | Path, device: torch.device) -> TransformersSubject:
    """Read a checkpoint in fp32.

    Raises:
        InputError: nothing there that transformers itself can read.
    """
    from transformers import AutoModelForCausalLM

    if not Path(source).exists():
        raise InputError(f"{source}: a family has no weights of its own; give --random-weights")
    _known(source)
    _quiet()
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # its own refusal names no tensor
        )
    except Exception as error:  # whatever its own checks lead it to
        raise InputError(f"{source}: transformers cannot load it: {_told(error)}") from None
    model, loading = found
    for name, stored, built in sorted(loading["mismatched_keys"]):
        raise InputError(
            f"{source}: tensor '{name}' has shape {tuple(stored)}, expected {tuple(built)}"
        )
    return TransformersSubject(model.to(device), f"{source} ({_whose()})", loading)


def draw(
    source: str | Path, device: torch.device, seed: int, tiny: bool = False
) -> TransformersSubject:
    """Build a model from its configuration, or a family's own one, with lively random weights.

    Raises:
        InputError: no such configuration, or no tiny one of this family.
    """
    from transformers import AutoModelForCausalLM

    family, fields = _known(source)
    _quiet()
    if tiny:
        fields = shrunk(fields, family)
        if fields is None:
            raise InputError(
                f"--tiny: no tiny sizes are known for model_type '{family}'; "
                f"allowed: {', '.join(TINY)}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config = _config(family, fields)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception as error:  # whatever its own checks lead it to
            raise InputError(f"{source}: transformers cannot build it: {_told(error)}") from None
    enliven(model, seed)
    size = "tiny, " if tiny else ""
    return TransformersSubject(model.to(device), f"{source} ({size}random weights, {_whose()})")


def _whose() -> str:
    """Say that their classes compute, not ours."""
    import transformers

    return f"transformers {transformers.__version__}"


def _config(family: str, fields: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **fields)


def _known(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Return the family and the fields of a configuration; code beside it is refused."""
    path = Path(source)
    if not path.exists():
        return str(source), {}
    file = path / "config.json" if path.is_dir() else path
    fields = _fields(file)
    family = fields.pop("model_type")
    if not isinstance(family, str) or family not in _families():
        raise InputError(
            f"{file}: model_type {family!r} is not part of {_whose()}; "
            "code that lies beside a checkpoint is never executed"
        )
    for name in LAYER_COUNTS:
        n_layers = fields.get(name)
        if isinstance(n_layers, int) and n_layers > MAX_LAYERS:
            raise InputError(f"{file}: {name} = {n_layers}: allowed are at most {MAX_LAYERS}")
    for name in ("auto_map", "transformers_version", "architectures", "dtype", "torch_dtype"):
        fields.pop(name, None)
    return family, fields


def _fields(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{file}: must be one JSON object")
    return data


def _families() -> set[str]:
    """Model types that have a causal language model."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError:
        return set()
    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _quiet() -> None:
    """Its advice on kernels that are not installed is not what was asked."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _told(error: Exception) -> str:
    if "weights_only" in str(error):  # followed by advice to run what it holds
        return "its pickle holds more than tensors, and nothing of it was run"
    return " ".join(str(error).split())[:300] or type(error).__name__
