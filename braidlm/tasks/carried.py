"""The loss of long rows, fed in pieces through the explicit state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braidlm.generate.mode import device_of, precise_logits
from braidlm.tasks.scoring import LOGITS_AT_ONCE


def losses_in_pieces(
    model: nn.Module, tokens: np.ndarray, n_at_once: int, vocab_size: int
) -> np.ndarray:
    """Return -log p of every token but the first (B, T) in nats, given all before it in its row.

    Only the state reaches from one piece to the next, so that memory grows by what a KV cache
    grows and by nothing else.

    Args:
        model: called as `HybridLM` is; in evaluation mode, see `generate.mode.inference`.
        tokens: (B, T + 1) int64.
        n_at_once: tokens of one forward pass, over all rows, at most (but one per row at least).
        vocab_size: of the model.
    """
    rows, n_inputs = tokens.shape[0], tokens.shape[1] - 1
    piece = max(1, n_at_once // rows)
    found = np.zeros((rows, n_inputs))
    given = torch.from_numpy(tokens).to(device_of(model))
    state: Any = None
    for start in range(0, n_inputs, piece):
        stop = min(start + piece, n_inputs)
        out = model(given[:, start:stop], None, state, return_state=stop < n_inputs)
        state = out.state
        wanted = given[:, start + 1 : stop + 1]
        found[:, start:stop] = _losses(model, out.hidden, wanted, vocab_size)
    return found


def _losses(model: nn.Module, hidden: Tensor, wanted: Tensor, vocab_size: int) -> np.ndarray:
    """Return the loss of `wanted` (B, P) after `hidden` (B, P, d), few logits at a time."""
    n = max(1, LOGITS_AT_ONCE // (vocab_size * len(hidden)))
    parts = []
    for start in range(0, hidden.shape[1], n):
        logits = precise_logits(model, hidden[:, start : start + n])
        answer = logits.gather(-1, wanted[:, start : start + n, None])[..., 0]
        parts.append(logits.logsumexp(-1) - answer)
    return torch.cat(parts, 1).double().cpu().numpy()
