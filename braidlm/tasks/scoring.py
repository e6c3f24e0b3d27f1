"""The loss of every token of many sequences, packed into rows so that no position is wasted."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from braidlm.arch import Recipe
from braidlm.data.packing import IGNORE
from braidlm.data.tokenizer import Tokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import device_of
from braidlm.segments import Segments

TOKENS_AT_ONCE = 2**14
"""Tokens of one forward pass, unless a single row is longer."""

LOGITS_AT_ONCE = 2**24
"""Logits of one forward pass at most, unless one item has more."""

Progress = Callable[[int, int], None]
"""Called with (done, total) items."""


def at_once(length: int, n_logits: int) -> int:
    """Return how many items of `length` tokens and `n_logits` logits one forward pass takes."""
    return max(1, min(TOKENS_AT_ONCE // length, LOGITS_AT_ONCE // n_logits))


def judged(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss in nats and the share of a hit of each answer, both float64.

    Args:
        logits: (..., V).
        wanted: (...) int64 answers. One that ties with m others at the top is 1 / (m + 1) right.
    """
    answer = logits.gather(-1, wanted[..., None])
    losses = (logits.logsumexp(-1) - answer[..., 0]).double().cpu().numpy()
    is_top = logits == logits.amax(-1, keepdim=True)
    hits = is_top.gather(-1, wanted[..., None])[..., 0] / is_top.sum(-1)
    return losses, hits.double().cpu().numpy()


def check_vocabulary(tokenizer: Tokenizer, recipe: Recipe) -> None:
    """Refuse a tokenizer that is larger than the model's vocabulary.

    Raises:
        InputError: naming both sizes.
    """
    if tokenizer.vocab_size > recipe.spec.vocab_size:
        raise InputError(
            f"tokenizer '{tokenizer.name}' has {tokenizer.vocab_size} tokens: the model's "
            f"vocab_size = {recipe.spec.vocab_size} must be at least that"
        )


class Part(NamedTuple):
    """Inputs start .. start + length - 1 of one sequence."""

    sequence: int
    start: int
    length: int


def cut(lengths: Sequence[int], seq_len: int) -> list[Part]:
    """Return the parts of sequences with these many inputs, each at most `seq_len` long."""
    return [
        Part(i, start, min(seq_len, length - start))
        for i, length in enumerate(lengths)
        for start in range(0, length, seq_len)
    ]


def pack(parts: Sequence[Part], seq_len: int) -> list[list[Part]]:
    """Return rows of at most `seq_len` tokens: longest part first, into the fullest row that fits.

    Rows that hold one part of `seq_len` tokens come first.
    """
    rows: list[list[Part]] = []
    room: list[tuple[int, int]] = []
    for part in sorted(parts, key=lambda p: -p.length):
        at = bisect.bisect_left(room, (part.length, -1))
        left, row = room.pop(at) if at < len(room) else (seq_len, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(part)
        if left > part.length:
            bisect.insort(room, (left - part.length, row))
    return rows


def score(model: nn.Module, sequences: Sequence[np.ndarray], seq_len: int) -> list[np.ndarray]:
    """Return -log p of every token but the first, in nats, each given its part's tokens before it.

    Args:
        model: has ``loss(tokens, targets, segments, reduction="none")``, as `HybridLM` has it; in
            evaluation mode, see `braidlm.generate.mode.inference`.
        sequences: int64 arrays (n_i,) of tokens, n_i at least 2.
        seq_len: tokens of the longest context. The n_i - 1 inputs of a longer sequence are cut
            every `seq_len` tokens, and nothing is carried from one part to the next.

    Returns:
        For each sequence a float64 array (n_i - 1,).
    """
    found = [np.zeros(len(tokens) - 1) for tokens in sequences]
    rows = pack(cut([len(losses) for losses in found], seq_len), seq_len)
    n_rows = at_once(seq_len, 1)  # the loss holds few logits at a time
    for first in range(0, len(rows), n_rows):
        batch = rows[first : first + n_rows]
        losses = _row_losses(model, sequences, batch)
        for row, parts in enumerate(batch):
            at = 0
            for part in parts:
                where = slice(part.start, part.start + part.length)
                found[part.sequence][where] = losses[row, at : at + part.length]
                at += part.length
    return found


def _row_losses(
    model: nn.Module, sequences: Sequence[np.ndarray], rows: list[list[Part]]
) -> np.ndarray:
    """Return the loss of each target (B, T) in float64, 0 at padding."""
    width = max(sum(part.length for part in parts) for parts in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    targets = np.full((len(rows), width), IGNORE, dtype=np.int64)
    for row, parts in enumerate(rows):
        at = 0
        for i, start, length in parts:
            tokens[row, at : at + length] = sequences[i][start : start + length]
            targets[row, at : at + length] = sequences[i][start + 1 : start + length + 1]
            at += length
    device = device_of(model)
    # Rows of one whole part each need no segments, which is faster.
    is_plain = all(len(parts) == 1 and parts[0].length == width for parts in rows)
    lengths = [[part.length for part in parts] for parts in rows]
    segments = None if is_plain else Segments.from_lengths(lengths, width).to(device)
    losses = model.loss(  # type: ignore[operator]
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(targets).to(device),
        segments,
        reduction="none",
    )
    return losses.double().cpu().numpy()
