"""Models whose memory is known because their weights were written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braidlm.analysis.inputs import Document, Inputs
from braidlm.analysis.instrument import Finding, Instrument, Subject
from braidlm.arch import Spec
from braidlm.data.tokenizer import Tokenizer
from braidlm.generate.mode import inference
from braidlm.laws.lively import enliven
from braidlm.model import HybridLM


def model_of(spec: Spec, write: Callable[[HybridLM], None] | None = None) -> HybridLM:
    """A model with random weights, some of them then written by hand."""
    model = HybridLM(spec).eval()
    enliven(model)
    if write is not None:
        with torch.no_grad():
            write(model)
    return model


def inputs_of(
    documents: Sequence[Sequence[int] | Tensor], tokenizer: Tokenizer | None = None, **changes: Any
) -> Inputs:
    """Documents of these tokens."""
    made = [Document(f"d{i}", np.asarray(ids, np.int64)) for i, ids in enumerate(documents)]
    return Inputs("", "text", {}, **{"documents": made, "tokenizer": tokenizer} | changes)


def random_inputs(spec: Spec, n: int = 3, length: int = 40) -> Inputs:
    """Documents of random tokens."""
    return inputs_of(list(torch.randint(spec.vocab_size, (n, length))))


def look(
    instrument: Instrument, model: HybridLM, inputs: Inputs, layers: set[int] | None = None
) -> Finding:
    """What an instrument finds."""
    with inference(model):
        return instrument.run(Subject(model, inputs, layers), lambda done, total: None)


def mixer_of(model: HybridLM, layer: int = 0) -> Any:
    """The mixer of a sublayer with one."""
    block: Any = model.blocks[layer]
    return block.mix.mixer
