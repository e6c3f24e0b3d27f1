"""Laws of a whole model. Every function takes a model and one row of tokens (T,) int64.

The tokens lie on the model's device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm import state as states
from braidlm.model import HybridLM
from braidlm.segments import Segments


class Deviation(NamedTuple):
    """How far two computations of the same thing lie apart."""

    law: str
    outputs: float
    """Largest absolute difference of hidden states."""
    gradients: float
    """Largest difference of a parameter's gradient, relative to that gradient's largest entry."""
    states: float = 0.0
    """Largest absolute difference of final states."""


def causality(model: HybridLM, tokens: Tensor, at: int) -> float:
    """Return the largest change of hidden states before `at` when the token at `at` changes.

    On a CPU in fp32 it must be exactly zero: the future never reaches the past.
    """
    changed = tokens.clone()
    changed[at] = (changed[at] + 1) % model.spec.vocab_size
    with torch.no_grad():
        before = model(tokens[None], return_state=False).hidden[0, :at]
        after = model(changed[None], return_state=False).hidden[0, :at]
    return _largest(before, after)


def split(model: HybridLM, tokens: Tensor, at: int) -> Deviation:
    """Compare a prefill of `at` tokens and its continuation with one forward pass."""
    return carried(model, tokens, (at, len(tokens) - at))._replace(law="split")


def carried(model: HybridLM, tokens: Tensor, lengths: Sequence[int]) -> Deviation:
    """Compare segments with carried state, gradients flowing through it, with one forward pass."""

    def in_parts() -> tuple[Tensor, Any]:
        hidden, state = [], None
        for part in tokens.split(list(lengths)):
            out = model(part[None], state=state)
            hidden.append(out.hidden[0])
            state = out.state
        return torch.cat(hidden), state

    def at_once() -> tuple[Tensor, Any]:
        out = model(tokens[None])
        return out.hidden[0], out.state

    return _compare("carried", model, at_once, in_parts)


def stepped(model: HybridLM, tokens: Tensor, prefill: int) -> Deviation:
    """Compare a prefill followed by single steps, without gradients, with one forward pass."""
    with torch.no_grad():
        whole = model(tokens[None])
        hidden, state = [], None
        if prefill:
            out = model(tokens[None, :prefill])
            hidden.append(out.hidden)
            state = out.state
        for t in range(prefill, len(tokens)):
            out = model(tokens[None, t : t + 1], state=state)
            hidden.append(out.hidden)
            state = out.state
    outputs = _largest(whole.hidden, torch.cat(hidden, dim=1))
    return Deviation("stepped", outputs, 0.0, _state_distance(whole.state, state))


def packed(model: HybridLM, tokens: Tensor, rows: Sequence[Sequence[int]]) -> Deviation:
    """Compare documents packed in rows with each document alone.

    Args:
        model: the model.
        tokens: at least as many as all documents hold.
        rows: lengths of the documents of each row; shorter rows are padded on the right.
    """
    segments = Segments.from_lengths(rows).to(tokens.device)
    documents = list(tokens[: sum(map(sum, rows))].split([n for row in rows for n in row]))
    batch = torch.zeros_like(segments.doc)
    batch[segments.is_real] = torch.cat(documents)

    def together() -> tuple[Tensor, Any]:
        out = model(batch, segments)
        return out.hidden[segments.is_real], out.state

    return _compare("packed", model, _alone(model, documents), together, per_document=True)


def padded(model: HybridLM, tokens: Tensor, lengths: Sequence[int], side: str) -> Deviation:
    """Compare a batch padded on one side with each row alone, and one more step of both.

    Args:
        model: the model.
        tokens: at least as many as all rows hold, and one more for each.
        lengths: real tokens of each row.
        side: "left" or "right".
    """
    longest = max(lengths)
    documents = list(tokens[: sum(lengths)].split(list(lengths)))
    column = torch.arange(longest, device=tokens.device)
    real = torch.tensor(lengths, device=tokens.device)[:, None]
    mask = column >= longest - real if side == "left" else column < real
    batch = torch.full_like(mask, model.spec.vocab_size - 1, dtype=torch.int64)
    batch[mask] = torch.cat(documents)
    following = tokens[-len(lengths) :]

    def together() -> tuple[Tensor, Any]:
        out = model(batch, Segments.from_mask(mask))
        after = model(following[:, None], state=out.state)
        return torch.cat([out.hidden[mask], after.hidden[:, 0]]), after.state

    def one_by_one() -> tuple[Tensor, Any]:
        outs = [model(d[None]) for d in documents]
        afters = [model(t[None, None], state=o.state) for t, o in zip(following, outs, strict=True)]
        hidden = [o.hidden[0] for o in (*outs, *afters)]
        return torch.cat(hidden), [a.state for a in afters]

    return _compare(f"padded {side}", model, one_by_one, together, per_document=True)


LAWS = {
    "causality": causality,
    "split": split,
    "carried": carried,
    "stepped": stepped,
    "packed": packed,
    "padded": padded,
}
"""Every law by name."""

_Computation = Callable[[], tuple[Tensor, Any]]


def _alone(model: HybridLM, documents: Sequence[Tensor]) -> _Computation:
    def run() -> tuple[Tensor, Any]:
        outs = [model(d[None]) for d in documents]
        return torch.cat([o.hidden[0] for o in outs]), [o.state for o in outs]

    return run


def _compare(
    law: str, model: HybridLM, one: _Computation, other: _Computation, per_document: bool = False
) -> Deviation:
    """Compare hidden states, final states and gradients of two computations.

    The gradients are those of a fixed random function of hidden states and final states.
    """
    hidden_a, state_a, grads_a = _with_gradients(model, one)
    hidden_b, state_b, grads_b = _with_gradients(model, other)
    if per_document:
        index = torch.arange(len(state_a), device=hidden_a.device)
        state_b = [states.select(state_b, index[i : i + 1]) for i in range(len(state_a))]
    gradients = max(
        _largest(a, b) / max(float(a.abs().max()), 1e-30)
        for a, b in zip(grads_a, grads_b, strict=True)
    )
    return Deviation(
        law, _largest(hidden_a, hidden_b), gradients, _state_distance(state_a, state_b)
    )


def _with_gradients(model: HybridLM, run: _Computation) -> tuple[Tensor, Any, list[Tensor]]:
    hidden, state = run()
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(hidden.shape, generator=generator, dtype=torch.float64)
    value = (hidden * probe.to(hidden)).sum()
    parameters = list(model.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    grads = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
    ]
    return hidden.detach(), states.detach(_nested(state)), grads


def _nested(state: Any) -> Any:
    return tuple(state) if isinstance(state, list) else state


def _state_distance(a: Any, b: Any) -> float:
    """Largest difference of two states; a cache counts only up to the shorter capacity."""
    distance = 0.0
    for x, y in zip(states.tensors(_nested(a)), states.tensors(_nested(b)), strict=True):
        if x.dim() == y.dim() == 4 and x.shape != y.shape:
            shared = min(x.shape[1], y.shape[1])
            x, y = x[:, :shared], y[:, :shared]
        distance = max(distance, _largest(x, y))
    return distance


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
