"""Which device a word means."""

from __future__ import annotations

import torch

from braidlm.errors import InputError


def choose_device(device: str) -> torch.device:
    """Return what "auto" (the GPU if there is one), "cpu" or "cuda" means here.

    Raises:
        InputError: another word, or "cuda" without a GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device = {device!r}: allowed are auto, cpu and cuda")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise InputError('device = "cuda": torch sees no GPU here; allowed: "auto", "cpu"')
    return torch.device("cuda" if device != "cpu" and has_gpu else "cpu")
