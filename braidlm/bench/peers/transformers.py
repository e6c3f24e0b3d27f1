"""The model of transformers that `braid export` would write, with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from braidlm.bench.contender import Library, NoPeerError, Setting
from braidlm.bench.peers.pretrained import Answering, Built, Trained, check_size
from braidlm.errors import InputError
from braidlm.files import write_json
from braidlm.interop.choose import for_spec

KERNELS = ("mamba_ssm", "causal_conv1d", "fla")
"""Packages whose kernels its classes take where they are installed."""
LENGTH = "max_position_embeddings"
CHUNKS = ("chunk_size", "mamba_chunk_size")
"""Fields that change no result: theirs stay as its authors set them, as ours do."""


def kernels(model: Any) -> str:
    """Say which packages of kernels the code of a model names, and which of them are there."""
    code = inspect.getsource(inspect.getmodule(type(model)) or type(model)).replace("-", "_")
    named = [name for name in KERNELS if re.search(rf"\b{name}\b", code)]
    if not named:
        return "torch"
    absent = [name for name in named if not _imports(name)]
    found = [name for name in named if name not in absent]
    path = "torch path" if absent else "their kernels"
    return f"{path} (installed: {', '.join(found) or 'none'}; not: {', '.join(absent) or 'none'})"


def _imports(package: str) -> bool:
    """Whether it is really there: one whose compiled half is missing is found, and not taken."""
    try:
        importlib.import_module(package)
    except Exception:  # as transformers does: whatever it says, the torch path runs
        return False
    return True


def _config(setting: Setting) -> Any:
    if not is_installed():
        raise NoPeerError("transformers is not installed")
    try:
        _, fields = for_spec(setting.recipe.spec)
    except InputError as error:
        raise NoPeerError(str(error).partition("; '--format")[0]) from None
    from transformers import AutoConfig

    plan = setting.plan
    fields = {name: value for name, value in fields.items() if name not in CHUNKS}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    length = {LENGTH: max(plan.contexts) + plan.new_tokens}
    with tempfile.TemporaryDirectory() as folder:  # as it reads a file: some values are spelt there
        write_json(Path(folder) / "config.json", {**length, **ids, **fields})
        return AutoConfig.from_pretrained(folder, local_files_only=True)


def _prepare(setting: Setting) -> None:
    """Build it without memory."""
    _built(setting, torch.device("meta"))


def _built(setting: Setting, device: torch.device) -> Built:
    config = _config(setting)
    from transformers import AutoModelForCausalLM, __version__, logging

    logging.set_verbosity_error()  # its advice on kernels is told in `about`
    torch.manual_seed(setting.plan.seed)
    with device:  # drawing so many numbers takes a host longer than measuring
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    check_size(setting.recipe.spec, model, config.model_type)
    about = {
        "library": f"transformers {__version__}",
        "class": type(model).__name__,
        "kernels": kernels(model),
    }
    return Built(model, f"transformers {config.model_type}", about)


def is_installed() -> bool:
    """Whether the package can be found; it is not imported."""
    return importlib.util.find_spec("transformers") is not None


LIBRARY = Library(
    "transformers",
    lambda setting: Trained(setting, _built(setting, setting.device)),
    lambda setting: Answering(setting, _built(setting, setting.device)),
    is_installed,
    _prepare,
)
