"""How a model is asked: evaluation mode, no gradients, in a stated precision on a stated device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from braidlm.errors import InputError
from braidlm.ops.dispatch import state_dtype

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
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bf16"),
        ):
            yield
    finally:
        model.train(was_training)


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
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}: allowed are {' and '.join(DTYPES)}")
    return dtype


def precise_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return logits (..., V) of hidden states (..., d_model) in fp32 or more, autocast or not.

    In bf16 the largest logits often tie, which would hide the choice.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return model.head(hidden.to(state_dtype(hidden.dtype)))  # type: ignore[operator]
