"""The model of transformers that `braid export` would write, with random weights."""

from __future__ import annotations

import importlib.util
import inspect
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from braidlm.arch.cost import cost
from braidlm.bench.contender import Call, Library, NoPeerError, Setting, Stamps
from braidlm.bench.peers.plain import PlainTraining
from braidlm.errors import InputError
from braidlm.files import write_json
from braidlm.generate.mode import weights_dtype
from braidlm.interop.choose import for_spec

KERNELS = ("mamba_ssm", "causal_conv1d", "fla")
"""Packages whose kernels its classes take where they are installed."""
LENGTH = "max_position_embeddings"
CHUNKS = ("chunk_size", "mamba_chunk_size")
"""Fields that change no result: theirs stay as its authors set them, as ours do."""


class Trained:
    """A model of transformers that is trained."""

    def __init__(self, setting: Setting) -> None:
        self.model, self.name, self.about = _built(setting)
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self.model.to(setting.device).train()
        self._plain = PlainTraining(self.model, setting, self._loss)
        self.about["precision"] = self._plain.precision

    def _loss(self, rows: Tensor) -> Tensor:
        return self.model(input_ids=rows, labels=rows, use_cache=False).loss

    def update(self, rows: Tensor) -> Call:
        """Return forward, its own loss, backward, clipping and fused AdamW."""
        # Its loss shifts the labels by itself: T + 1 tokens would be one more than ours reads.
        return self._plain.update(rows[:, :-1].contiguous())

    def close(self) -> None:
        """Forget model, gradients and moments."""
        del self.model, self._plain


class Answering:
    """A model of transformers that answers."""

    def __init__(self, setting: Setting) -> None:
        self.model, self.name, self.about = _built(setting)
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self.model.to(setting.device, weights_dtype(setting.answering_dtype)).eval()
        self.about["precision"] = f"{setting.answering_dtype} weights"

    def prefill(self, prompts: Tensor) -> Call:
        """Return a forward pass with its cache, and the head of the last token."""

        def call() -> None:
            with torch.inference_mode():
                out = self.model(input_ids=prompts, use_cache=True, logits_to_keep=1)
                out.logits[:, -1].argmax(-1).tolist()

        return call

    def generate(self, prompts: Tensor, new_tokens: int) -> Stamps:
        """Return its own `generate`, greedy."""

        def call() -> list[float]:
            stamps = _Stamps()
            self.model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                streamer=stamps,
            )
            return stamps.moments

        return call

    def close(self) -> None:
        """Forget the model."""
        del self.model


class _Stamps:
    """What its `generate` gives the prompts and then each step's tokens, on the host."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Note the moment of a step."""
        if not self._is_prompt:
            self.moments.append(time.perf_counter())
        self._is_prompt = False

    def end(self) -> None:
        """Nothing is left to say."""


def kernels(model: Any) -> str:
    """Say which packages of kernels the code of a model names, and which of them are there."""
    code = inspect.getsource(inspect.getmodule(type(model)) or type(model)).replace("-", "_")
    named = [name for name in KERNELS if re.search(rf"\b{name}\b", code)]
    if not named:
        return "torch"
    absent = [name for name in named if importlib.util.find_spec(name) is None]
    found = [name for name in named if name not in absent]
    path = "torch path" if absent else "their kernels"
    return f"{path} (installed: {', '.join(found) or 'none'}; not: {', '.join(absent) or 'none'})"


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


def _built(setting: Setting) -> tuple[Any, str, dict[str, Any]]:
    """Return the model on the host in fp32, its name, and what there is to say of it."""
    config = _config(setting)
    from transformers import AutoModelForCausalLM, __version__, logging

    logging.set_verbosity_error()  # its advice on kernels is told in `about`
    torch.manual_seed(setting.plan.seed)
    with setting.device:  # drawing so many numbers takes a host longer than measuring
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    expected = cost(setting.recipe.spec, 1).n_params
    found = sum(p.numel() for p in model.parameters())
    if found != expected:
        raise NoPeerError(f"its {config.model_type} has {found:,} parameters, not {expected:,}")
    about = {
        "library": f"transformers {__version__}",
        "class": type(model).__name__,
        "kernels": kernels(model),
    }
    return model, f"transformers {config.model_type}", about


def is_installed() -> bool:
    """Whether the package can be found; it is not imported."""
    return importlib.util.find_spec("transformers") is not None


LIBRARY = Library("transformers", Trained, Answering, is_installed)
