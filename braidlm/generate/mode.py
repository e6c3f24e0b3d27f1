"""How a model is asked: evaluation mode, no gradients, in a stated precision on a stated device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from braidlm.errors import InputError
from braidlm.mixers.untouched import is_untouched
from braidlm.model import HybridLM
from braidlm.ops import rows
from braidlm.ops.scaled import scaled

DTYPES = ("fp32", "bf16")


@contextlib.contextmanager
def inference(model: nn.Module, dtype: str = "fp32") -> Iterator[None]:
    """Put `model` in evaluation mode without gradients while inside, then back.

    Args:
        model: its weights stay as they are.
        dtype: "fp32" (the weights' own), or "bf16": matrix products under autocast.
    """
    device = device_of(model)
    was_training = model.training
    if was_training:  # a walk over all modules, which a model that only answers is spared
        model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bf16"),
        ):
            yield
    finally:
        if was_training:
            model.train()


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's weights are."""
    return next(model.parameters()).device


def choose_dtype(dtype: str | None, device: torch.device, trained: str) -> str:
    """Return the precision of an evaluation.

    Args:
        dtype: "fp32", "bf16", or None: fp32 on a CPU, and as trained on a GPU.
        device: where the model is.
        trained: the recipe's `train.precision`.

    Raises:
        InputError: another word.
    """
    if dtype is None:
        return "fp32" if device.type == "cpu" or trained == "fp32" else "bf16"
    weights_dtype(dtype)
    return dtype


def weights_dtype(dtype: str) -> torch.dtype:
    """Return the dtype of a generating model's weights.

    Args:
        dtype: "fp32" or "bf16".

    Raises:
        InputError: another word.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}: allowed are {' and '.join(DTYPES)}")
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def precise_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return the logits (..., V) of hidden states (..., d_model), at least fp32.

    They are computed in the weights' dtype, under autocast too: in bf16 the largest logits often
    tie, which would hide the choice. Few rows on a GPU are not even rounded to it.
    """
    dtype = next(model.parameters()).dtype
    pays = hidden.dim() == 2 and rows.pays(hidden)
    if pays and isinstance(model, HybridLM) and is_untouched(model.lm_head):
        read = rows.Read(scaled(hidden, model.logits_scale))
        return rows.product(read, model.lm_head.weight, dtype=torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = model.head(hidden.to(dtype))  # type: ignore[operator]
    return logits.to(torch.promote_types(dtype, torch.float32))
